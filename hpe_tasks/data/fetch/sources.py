"""Where the parts of a data set come from: a folder in place, or an archive that is fetched and unpacked."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.fetch.archive import extract_archive, remove_unfinished
from hpe_tasks.data.fetch.digests import DigestCache
from hpe_tasks.data.fetch.download import FetchedFile, Offer, fetch, forget, local_path, look
from hpe_tasks.data.fetch.mirror import mirror_prefix
from hpe_tasks.data.fetch.transports import HttpPatience
from hpe_tasks.errors import ArchiveError, DatasetError, DigestError
from hpe_tasks.storage.folders import hold, locked
from hpe_tasks.storage.s3 import S3Location

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.data.sample import SampleSpec

log = logging.getLogger(__name__)

_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_LOOK_PATIENCE = HttpPatience(read_timeout_s=20.0, retries=1)

_MATLAB = b"MATLAB 5.0 MAT-file"


@dataclass(frozen=True)
class Sources:
    """Brings addresses to this machine.

    Attributes:
        cache: Folder for downloads, extracted archives and remembered digests.
        s3: Makes the client when it is needed.
        allow_private_addresses: Ask web servers that not everybody can reach as well.
    """

    cache: Path
    s3: Callable[[], S3Client]
    allow_private_addresses: bool = False

    def folder(self, address: str, *, option: str, sha256: str | None, parts: Sequence[Sequence[str]] = ()) -> Path:
        """The folder that an address means: one of this machine, or an archive's content; a .mat file is itself.

        Args:
            address: A folder, an archive, or the address of one.
            option: The option that names the address, for errors.
            sha256: Digest that the archive must have.
            parts: What is copied of an S3 prefix; without, S3 addresses are those of archives.

        Raises:
            DatasetError: There is nothing at the address.
            DigestError: The archive is another than promised.
            HpeError: It cannot be fetched or unpacked; see `fetch` and `extract_archive`.
        """
        if parts and is_prefix(address):
            refuse_digest(sha256, address, "an S3 prefix")
            return mirror_prefix(S3Location.parse(address), self.s3(), parts, self.cache / "s3")
        if "://" in address and not address.lower().startswith("file://"):
            archive = self.download(address, sha256=sha256, room_to_unpack=True)
            try:
                return self._unpacked(archive)
            except ArchiveError:
                forget(archive.path)  # A server may send less than it has, or a page in place of the file.
                raise
        path = local_path(address)
        if path.is_dir():
            refuse_digest(sha256, address, "a folder")
            return path
        if not path.is_file():
            refuse_absent(address, option)
        digests = DigestCache(self.cache / "digests" / "archives.json")
        found = FetchedFile(path, digests.sha256(path.resolve()))
        digests.save()
        if sha256 not in {None, found.sha256}:
            raise DigestError(
                f"{path} has the SHA-256 {found.sha256}, not {sha256}.",
                hint="Fetch it from a source that you trust, or correct dataset.sha256.",
            )
        return self._unpacked(found)

    def download(self, address: str, *, sha256: str | None = None, room_to_unpack: bool = False) -> FetchedFile:
        """The file at an address; see `fetch`."""
        return fetch(
            address,
            self._downloads(address),
            sha256=sha256,
            s3=self.s3,
            room_to_unpack=room_to_unpack,
            allow_private_addresses=self.allow_private_addresses,
        )

    def look(self, address: str) -> Offer:
        """What the address of a file offers, without its content; see `download.look`."""
        return look(
            address,
            self._downloads(address),
            s3=self.s3,
            patience=_LOOK_PATIENCE,
            allow_private_addresses=self.allow_private_addresses,
        )

    def _downloads(self, address: str) -> Path:
        # One folder for each address: different servers use the same file names.
        return self.cache / "downloads" / hashlib.sha256(address.encode()).hexdigest()[:16]

    def _unpacked(self, archive: FetchedFile) -> Path:
        if is_matlab_file(archive.path):
            return archive.path
        folder = self.cache / "archives" / archive.sha256
        hold(folder)
        with locked(folder):
            if not folder.is_dir():
                remove_unfinished(folder)
                log.info("Unpacking %s", archive.path)
                extract_archive(archive.path, folder)
        return folder


@dataclass(frozen=True)
class SourceRequest:
    """What is asked of the sources of one data set; `fetch_dataset` describes the fields."""

    config: DatasetConfig
    sources: Sources
    splits: tuple[str, ...]
    calibration_images: int
    seed: int
    sample: SampleSpec | None


def is_prefix(address: str) -> bool:
    """Whether an address is that of a folder in S3, by its name."""
    return address.startswith("s3://") and not address.lower().endswith((*_ARCHIVE_SUFFIXES, ".mat"))


def refuse_absent(address: str, option: str) -> NoReturn:
    """Raise DatasetError for a path with nothing under it."""
    raise DatasetError(
        f"{option}: {address!r} does not exist.",
        hint=f"Set {option} to a folder, an archive, or an s3:// or http(s):// address.",
    )


def refuse_digest(sha256: str | None, address: str, what: str) -> None:
    """Raise DatasetError where a digest is promised for something that has none."""
    if sha256 is not None:
        raise DatasetError(
            f"dataset.sha256 is set, but {address!r} is {what}: only an archive has a SHA-256.",
            hint="Remove dataset.sha256, or give the archive.",
        )


def is_matlab_file(path: Path) -> bool:
    """Whether a file's content is that of a .mat file."""
    with path.open("rb") as file:
        return file.read(len(_MATLAB)) == _MATLAB
