"""Zip archives whose bytes depend on nothing but the files in them."""

from __future__ import annotations

import stat
import zipfile
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


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _TIMESTAMP)
    # Unix, whatever builds it: else the modes below would be read as another system's.
    entry.create_system = 3
    entry.external_attr = _FILE_MODE << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry
