"""Folders of this machine: their free space, one writer at a time, and which of a cache are in use."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import threading
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


_held: dict[Path, int] = {}
_holding = threading.Lock()


def hold(path: Path) -> None:
    """Keep a file or folder of a cache from being dropped as long as this process lives, however it ends.

    Call it before looking whether it is there: once this returns, nobody is dropping it. The mark beside it tells
    when it was last used.
    """
    mark = use_mark(path).absolute()
    with _holding, storage_errors(mark):
        handle = _held.get(mark)
        if handle is not None and _is_at(handle, mark):
            os.utime(handle)
            return
        mark.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(mark, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH)
                if _is_at(handle, mark):  # otherwise it has just been dropped, with its mark
                    os.utime(handle)
                    break
            except OSError:
                os.close(handle)
                raise
            os.close(handle)
        if mark in _held:
            os.close(_held[mark])
        _held[mark] = handle


def let_go() -> None:
    """Hold nothing any more of what this process has held."""
    with _holding:
        while _held:
            os.close(_held.popitem()[1])


@contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Whether no process holds a file or folder of a cache; if so, none gets hold of it before the block ends."""
    mark = use_mark(path)
    was_there = mark.exists()
    try:
        handle = mark.open("a")
    except OSError:  # somebody else's
        yield False
        return
    with handle:
        free = _locks(handle.fileno()) and _is_at(handle.fileno(), mark)
        try:
            yield free
        finally:
            if free and not (was_there and os.path.lexists(path)):
                mark.unlink(missing_ok=True)


def use_mark(path: Path) -> Path:
    """The file beside something in a cache that is locked while it is in use, and written when a use begins."""
    return path.with_name(f".{path.name}.used.lock")


def _locks(handle: int) -> bool:
    """Whether nobody else has a lock; False as well where the file system cannot tell."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(handle))


def make_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Have a folder filled under a temporary name: it appears complete or not at all. One that is there is left."""
    hold(folder)
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
