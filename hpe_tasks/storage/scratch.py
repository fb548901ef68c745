"""Folders that processes work in for a while, and what is left of those that were killed.

Each holds a lock file that its owner has locked as long as it lives, however it ends. A lock counts only where both
sides certainly see it: in one and the same boot of one machine. Elsewhere the age decides.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ABANDONED_S = 2 * 24 * 3600
"""No step works on one folder for as long."""

_OWNER = "owner.lock"
_DROPPED = "dropped-"
"""What is called so is nobody's any more."""

_NEW = "new-"
"""What is called so has no owner yet, or never will have: whoever is making it keeps the folder itself locked."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in `parent` until the end of the block; removes those that killed processes left there."""
    sweep(parent)
    home, lock = _new_home(parent)
    try:
        folder = home / "files"
        folder.mkdir()
        yield folder
    finally:
        drop(home, parent)
        if lock is not None:
            os.close(lock)


def drop(path: Path, parent: Path) -> None:
    """Remove a file or folder on the file system of the scratch folders `parent`: from now on, or not at all.

    What a kill leaves of the removal is swept. What another process has just removed is no error.
    """
    aside = parent / f"{_DROPPED}{uuid.uuid4().hex}"
    with suppress(FileNotFoundError):
        path.rename(aside)
        _remove(aside)


def sweep(parent: Path) -> int:
    """Remove what killed processes left behind; returns how many folders."""
    begun = sum(_remove_unowned(folder) for folder in parent.glob(f"{_NEW}*"))
    left = [folder for folder in parent.iterdir() if _is_abandoned(folder)]
    for folder in left:
        _remove(folder)
    return begun + len(left)


def boot_id() -> str | None:
    """What this boot of this machine is called, alike in all of its containers; None where the system has no name."""
    try:
        return _BOOT_ID.read_text().strip() or None
    except OSError:
        return None


def _new_home(parent: Path) -> tuple[Path, int | None]:
    """A folder, under its name once it has an owner: a kill before that leaves what everybody knows for a leftover."""
    while True:
        working = Path(tempfile.mkdtemp(prefix=_NEW, dir=parent))
        with suppress(FileNotFoundError):  # another process has found it before it was locked
            folder = os.open(working, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(folder, fcntl.LOCK_EX)
                lock = _own(working)
                return working.rename(parent / f"hpe-{working.name.removeprefix(_NEW)}"), lock
            finally:
                os.close(folder)


def _remove_unowned(working: Path) -> bool:
    """Remove a folder that nobody makes any more."""
    with suppress(OSError):  # somebody has just finished it, or a file system without locks
        folder = os.open(working, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(working)
        finally:
            os.close(folder)
        return True
    return False


def _own(home: Path) -> int | None:
    """Lock a folder for this process; None where that says nothing to others."""
    boot = boot_id()
    if boot is None:
        return None
    # Under its name only once it is locked: nobody may find it free.
    working = home / f".{_OWNER}"
    lock = os.open(working, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o660)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    os.write(lock, boot.encode())
    working.rename(home / _OWNER)
    return lock


def _is_abandoned(folder: Path) -> bool:
    if folder.name.startswith(_DROPPED):
        return True
    try:
        with (folder / _OWNER).open("r+") as lock:
            if lock.read() == boot_id():
                return _is_free(lock.fileno())
    except OSError:  # it has none, or it is somebody else's
        pass
    with suppress(FileNotFoundError):  # another process has just removed it
        return time.time() - folder.stat().st_mtime > ABANDONED_S
    return False


def _is_free(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
