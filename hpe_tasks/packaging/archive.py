"""Zip archives whose bytes depend on nothing but the files in them."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

# The first moment that a zip archive can tell.
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_FILE_MODE = stat.S_IFREG | 0o644


def append_bytes(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add one file, readable by everybody, without a time."""
    archive.writestr(_entry(name), data)


def append_folder(archive: zipfile.ZipFile, folder: Path) -> None:
    """Add all files below a folder, in the order of their names."""
    for name, file in sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*")):
        if file.is_file():
            append_file(archive, name, file)


def append_file(archive: zipfile.ZipFile, name: str, file: Path) -> None:
    """Add a file of any size under this name."""
    entry = _entry(name)
    entry.file_size = file.stat().st_size
    with file.open("rb") as source, archive.open(entry, "w") as destination:
        while piece := source.read(1 << 20):
            destination.write(piece)


def contents_sha256(archive: zipfile.ZipFile, *, without: Iterable[str] = ()) -> str:
    """SHA-256 over the names, modes and contents of an archive's files; how they are compressed does not count.

    Two archives with the same can differ in their bytes, where another version of zlib wrote them.

    Args:
        archive: Open for reading.
        without: Patterns of names that do not count; `*` also matches "/".
    """
    digest, left_out = hashlib.sha256(), tuple(without)
    for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
        if any(fnmatchcase(entry.filename, pattern) for pattern in left_out):
            continue
        content = hashlib.sha256()
        with archive.open(entry) as file:
            while piece := file.read(1 << 20):
                content.update(piece)
        digest.update(f"{entry.external_attr >> 16:o} {content.hexdigest()} {entry.filename}\n".encode())
    return digest.hexdigest()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIMESTAMP)
    # Unix, whatever builds it: else the modes below would be read as another system's.
    entry.create_system = 3
    entry.external_attr = _FILE_MODE << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
