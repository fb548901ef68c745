"""Writing to the local disk: free space, errors that name the path, and one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpe_tasks.errors import StorageError

log = logging.getLogger(__name__)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise StorageError when the file system of an existing folder has less than `needed_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StorageError(
            f"{folder} needs {_megabytes(needed_bytes)} more, but its disk has only {_megabytes(free)} free.",
            hint="Free some space, or use a folder on a larger disk.",
        )


@contextmanager
def storage_errors(path: Path, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            need = f" It needs {_megabytes(needed_bytes)}." if needed_bytes else ""
            raise StorageError(
                f"The disk is full: {path} could not be written.{need}",
                hint="Free some space, or use a folder on a larger disk.",
            ) from error
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}.", hint="Check the folder and its rights."
        ) from error


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


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"
