"""Unpacking archives that may be corrupt or hostile: all or nothing, inside one folder, within limits."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from hpe_tasks.errors import ArchiveError, StorageError
from hpe_tasks.progress import track
from hpe_tasks.storage.files import storage_errors
from hpe_tasks.storage.folders import check_space
from hpe_tasks.untrusted.tar import PlainTarInfo

MAX_RATIO = 100
"""Largest growth on unpacking: photographs hardly shrink and annotation files shrink to a fifth, so 100 is a bomb."""

_FREE_BYTES = 64 * 2**20  # Up to this size any ratio is harmless.
_CHUNK = 2**20
_BLOCK = 512  # Of a tar file.
_CORRUPT = (
    EOFError,
    RuntimeError,
    NotImplementedError,
    ValueError,
    tarfile.TarError,
    zipfile.BadZipFile,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
)


@dataclass
class _Budget:
    """What an archive may still unpack to."""

    archive: Path
    max_files: int
    max_bytes: int
    files: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        self._ratio_limit = max(_FREE_BYTES, MAX_RATIO * self.archive.stat().st_size)

    def file(self) -> None:
        self.files += 1
        if self.files > self.max_files:
            raise ArchiveError(f"{self.archive} holds more than {self.max_files:,} files.", hint=_LIMIT_HINT)

    def spend(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self.max_bytes:
            raise ArchiveError(f"{self.archive} unpacks to more than {self.max_bytes:,} bytes.", hint=_LIMIT_HINT)
        if self.bytes > self._ratio_limit:
            raise ArchiveError(
                f"{self.archive} unpacks to more than {MAX_RATIO} times its size: it looks like a bomb.",
                hint=_LIMIT_HINT,
            )


_LIMIT_HINT = "Unpack it yourself if you trust it, and give the folder."


def extract_archive(
    archive: Path, destination: Path, *, max_files: int = 2_000_000, max_bytes: int = 500_000_000_000
) -> None:
    """Unpack a .zip, .tar or compressed .tar into a new folder; the content decides which it is, not the name.

    The folder appears complete or not at all. Links, devices and names that leave the folder are refused; file
    modes and times are not kept.

    Raises:
        ArchiveError: Corrupt, truncated, hostile or beyond the limits; names the archive and the member.
        StorageError: The disk is full, or `destination` exists already.
    """
    if not archive.is_file():
        raise ArchiveError(f"{archive} is not a file.", hint="Check the path.")
    if destination.exists():
        raise StorageError(f"{destination} exists already.", hint="Remove it, or unpack elsewhere.")
    with storage_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        # A sibling, so that the rename stays inside one file system.
        working = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", suffix=".extracting", dir=destination.parent))
    try:
        _unpack(archive, working, _Budget(archive, max_files, max_bytes))
        with storage_errors(destination):
            working.chmod(0o755)
            working.rename(destination)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def remove_unfinished(destination: Path) -> None:
    """Delete what killed extractions into `destination` left; only safe while no other process extracts there."""
    for leftover in destination.parent.glob(f".{destination.name}.*.extracting"):
        shutil.rmtree(leftover, ignore_errors=True)


def _unpack(archive: Path, working: Path, budget: _Budget) -> None:
    try:
        with archive.open("rb") as file:
            magic = file.read(262)
    except OSError as error:
        raise ArchiveError(f"{archive} cannot be read: {error.strerror}.", hint="Check the path.") from error
    try:
        if magic.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
            _unpack_zip(archive, working, budget)
        elif opener := _tar_opener(magic):
            with opener(archive) as stream:
                _unpack_tar(archive, stream, working, budget)
        else:
            raise ArchiveError(f"{archive} is neither a .zip nor a .tar archive.", hint="Give one, or a folder.")
    except _CORRUPT as error:
        reason = str(error) or type(error).__name__
        raise ArchiveError(
            f"{archive} is corrupt, truncated or of an unsupported kind: {reason}.",
            hint="Fetch it again and compare its SHA-256.",
        ) from error
    if not budget.files:
        raise ArchiveError(f"{archive} holds no files.", hint="Check how it was made.")


def _tar_opener(magic: bytes) -> Any:
    if magic.startswith(b"\x1f\x8b"):
        return gzip.open
    if magic.startswith(b"BZh"):
        return bz2.open
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.open
    return (lambda path: path.open("rb")) if magic[257:262] == b"ustar" else None


def _unpack_zip(archive: Path, working: Path, budget: _Budget) -> None:
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        if len(members) > budget.max_files:
            raise ArchiveError(f"{archive} holds more than {budget.max_files:,} files.", hint=_LIMIT_HINT)
        declared = sum(member.file_size for member in members)
        _Budget(archive, budget.max_files, budget.max_bytes).spend(declared)
        check_space(working, declared)
        for member in track(members, f"Unpacking {archive.name}", unit="files"):
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, member.filename, "is a link or a device")
            if not member.filename:
                raise _refused(archive, member.filename, "has no name")
            if member.flag_bits & 1:
                raise _refused(archive, member.filename, "is encrypted")
            target = _target(archive, working, member.filename)
            if member.is_dir():
                _make_folder(archive, member.filename, target)
                continue
            budget.file()
            with content.open(member) as source, _creating(archive, member.filename, target) as out:
                while chunk := _read(source):
                    budget.spend(len(chunk))
                    out.write(chunk)


def _unpack_tar(archive: Path, stream: IO[bytes], working: Path, budget: _Budget) -> None:
    check_space(working, archive.stat().st_size)  # A photograph is not smaller unpacked.
    window = _Window(stream, budget)
    # `r|` never seeks: one pass through a compressed file, however large.
    with tarfile.open(fileobj=cast("IO[bytes]", window), mode="r|", tarinfo=PlainTarInfo) as content:
        for member in track(content, f"Unpacking {archive.name}", unit="files"):
            cast("Any", content).members.clear()  # tarfile would keep every record in memory.
            target = _target(archive, working, member.name)
            if member.isdir():
                _make_folder(archive, member.name, target)
                continue
            if not member.isreg() or member.issparse():
                raise _refused(archive, member.name, "is a link, a device or a sparse file")
            if not member.name:
                raise _refused(archive, member.name, "has no name")
            budget.file()
            source = content.extractfile(member)
            if source is None:
                raise _refused(archive, member.name, "has no content")
            with _creating(archive, member.name, target) as out:
                while chunk := _read(source):
                    out.write(chunk)
        # tarfile takes a damaged or missing header for the end; the real end is a block of zeros.
        if window.block_at(content.offset) != bytes(_BLOCK):
            raise tarfile.ReadError("a file header is damaged, or the end is missing")
        # Reading on to the end checks the checksum of the compression.
        while window.read(_CHUNK):
            pass


class _Window:
    """A stream that spends the budget on what it reads and remembers its last two reads."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream = stream
        self._budget = budget
        self._end = 0
        self._last = (b"", b"")

    def read(self, size: int) -> bytes:
        try:
            chunk = self._stream.read(size)
        except OSError as error:
            raise tarfile.ReadError(str(error)) from error
        self._budget.spend(len(chunk))
        if chunk:
            self._last = (self._last[1], chunk)
            self._end += len(chunk)
        return chunk

    def block_at(self, offset: int) -> bytes:
        seen = b"".join(self._last)
        start = offset - (self._end - len(seen))
        return seen[start : start + _BLOCK] if start >= 0 else b""


def _read(source: IO[bytes]) -> bytes:
    try:
        return source.read(_CHUNK)
    except OSError as error:
        raise zipfile.BadZipFile(str(error)) from error  # bz2 reports damage with the plain class.


def _target(archive: Path, working: Path, name: str) -> Path:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or (len(name) > 1 and name[1] == ":"):
        raise _refused(archive, name, "has an absolute path")
    if ".." in path.parts or "\0" in name:
        raise _refused(archive, name, "would be written outside the folder")
    return working / path


def _make_folder(archive: Path, name: str, target: Path) -> None:
    try:
        with storage_errors(target):
            target.mkdir(parents=True, exist_ok=True)
    except StorageError as error:
        if isinstance(error.__cause__, FileExistsError | NotADirectoryError):
            raise _refused(archive, name, "is there twice") from error
        raise


@contextmanager
def _creating(archive: Path, name: str, target: Path) -> Iterator[IO[bytes]]:
    _make_folder(archive, name, target.parent)
    try:
        with storage_errors(target):
            out = target.open("xb")
    except StorageError as error:
        if isinstance(error.__cause__, FileExistsError | IsADirectoryError):
            raise _refused(archive, name, "is there twice") from error
        raise
    with storage_errors(target), out:
        yield out


def _refused(archive: Path, name: str, reason: str) -> ArchiveError:
    return ArchiveError(f"{archive}: the member {name!r} {reason}.", hint="Do not use this archive, or make it anew.")
