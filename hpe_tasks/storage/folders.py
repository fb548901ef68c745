"""Folders of this machine: their free space, and one writer at a time."""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpe_tasks.errors import StorageError
from hpe_tasks.storage.files import megabytes, storage_errors

log = logging.getLogger(__name__)


def check_space(folder: Path, needed_bytes: int, *, reason: str = "") -> None:
    """Raise StorageError when the file system of an existing folder has less than `needed_bytes` free.

    Args:
        folder: Where the files will be.
        needed_bytes: Their size.
        reason: What they are, where that is not plain.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        why = f" ({reason})" if reason else ""
        raise StorageError(
            f"{folder} needs {megabytes(needed_bytes)} more{why}, but its disk has only {megabytes(free)} free.",
            hint="Free some space, or use a folder on a larger disk.",
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out of `path` meanwhile: they wait; a killed holder leaves no lock behind."""
    lock = path.with_name(f".{path.name}.lock")
    with storage_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Waiting for another process that is writing %s", path)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have a folder filled under a temporary name: it appears complete or not at all. One that is there is left."""
    with locked(folder):
        for leftover in folder.parent.glob(f".{folder.name}.*.making"):
            shutil.rmtree(leftover, ignore_errors=True)
        if folder.is_dir():
            return
        with storage_errors(folder):
            working = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".making", dir=folder.parent))
        try:
            fill(working)
            with storage_errors(folder):
                working.chmod(0o755)
                working.rename(folder)
        finally:
            shutil.rmtree(working, ignore_errors=True)
