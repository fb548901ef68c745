"""Files of this machine: digests, writing in one piece, and what a disk refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hpe_tasks.errors import StorageError
from hpe_tasks.storage.temporary import link_over, replacing

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    errno.EACCES,
    errno.EEXIST,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def sha256_file(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-able value; equal for equal values whatever the order of their keys."""
    # Not `canonical_json`: this takes paths and dates as well and escapes characters, and stored steps are found by it.
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextmanager
def storage_errors(where: Path | str, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn what the disk refuses while `where` is written into StorageError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            need = f" It needs {megabytes(needed_bytes)}." if needed_bytes else ""
            raise StorageError(
                f"The disk is full: {where} could not be written.{need}",
                hint="Free some space, or use a folder on a larger disk.",
            ) from error
        if error.errno in _REFUSED:
            raise StorageError(
                f"{error.filename or where} could not be written: {error.strerror}.",
                hint="Check the folder and its rights.",
            ) from error
        raise


def megabytes(size_bytes: int) -> str:
    """A size as people read it."""
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 100_000 else f"{size_bytes:,} bytes"


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file under a temporary name beside `path` and rename it, so that readers never see a part of it.

    Args:
        path: The file.
        data: All that it holds.
        mode: Its rights, of which the umask may take some.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, mode=mode) as file:
            file.write(data)


def link_file(file: Path, shown: Path) -> None:
    """Hard-link `file` as `shown`, in place of an older one; copy where the file system has no links.

    Whoever reads `shown` meanwhile finds the older one or this one, and always whole.
    """
    with suppress(OSError):  # something is there, or the file system has no links
        os.link(file, shown)
        return
    with suppress(OSError):  # it is gone, or a link to nothing
        if not shown.is_symlink() and shown.samefile(file):
            return  # as it is each time that a stored result is shown again
    try:
        link_over(file, shown)
    except OSError:
        with file.open("rb") as given, replacing(shown, mode=stat.S_IMODE(file.stat().st_mode)) as copy:
            shutil.copyfileobj(given, copy)
            copy.flush()
            shutil.copystat(file, copy.name)


def path_of(uri: str) -> Path:
    """The local path that a `file://` address names."""
    return Path(unquote(urlsplit(uri).path))
