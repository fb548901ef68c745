"""Files that appear whole under their names, and what killed processes leave of them beside these names.

A file that is being written is locked by who writes it, however that ends: one that is free belongs to nobody any more,
and the next who writes a file in its folder removes it. As with scratch folders, a lock counts in one boot of one host.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from hpe_tasks.storage.scratch import boot_id

_BOOT_DIGITS = 6
_DRAWN_DIGITS = 6


@contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` at the end of the block, synchronized; after an error it is gone.

    Args:
        path: The file, in a folder that exists.
        mode: Its rights, of which the umask may take some.
    """
    _remove_leftovers(path.parent)
    file, temporary = _create(path, mode)
    with file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def link_over(file: Path, path: Path) -> None:
    """Let `path` be another name of a file, in place of what it names so far: from one moment to the next.

    Raises:
        OSError: The file system has no links, or refuses this one.
    """
    _remove_leftovers(path.parent)
    with file.open("rb") as named:
        # All names of a file share its locks: this one has the file locked before it is there.
        with suppress(OSError):
            fcntl.flock(named, fcntl.LOCK_SH)
        temporary = _temporary(path)
        os.link(file, temporary)
        try:
            temporary.replace(path)
        finally:
            # Still there where `path` has become a link to the file meanwhile: renaming one of two names does nothing.
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{_this_boot()}{uuid.uuid4().hex[:_DRAWN_DIGITS]}")


def _create(path: Path, mode: int) -> tuple[BinaryIO, Path]:
    while True:
        temporary = _temporary(path)
        try:
            file = open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode))  # noqa: SIM115
        except FileExistsError:
            continue
        with suppress(OSError):  # a file system without locks: nobody finds the file free there
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return file, temporary
        file.close()  # another process has found it before it was locked, and taken it for a leftover


def _remove_leftovers(folder: Path) -> None:
    ending = re.compile(rf"\..*\.{_this_boot()}[0-9a-f]{{{_DRAWN_DIGITS}}}")
    with os.scandir(folder) as entries:
        left = [Path(entry) for entry in entries if ending.fullmatch(entry.name)]
    for leftover in left:
        with suppress(OSError), leftover.open("r+b") as file:  # being written, or just gone
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


@cache
def _this_boot() -> str:
    # Where a boot has no name, nobody knows a file of another process for a leftover.
    boot = boot_id() or uuid.uuid4().hex
    return hashlib.sha256(boot.encode()).hexdigest()[:_BOOT_DIGITS]
