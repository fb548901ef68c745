"""Bringing a data set to this machine, whatever its address: afterwards it is a folder in COCO layout."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.config import SAMPLE, DatasetConfig
from hpe_tasks.data.archive import extract_archive, remove_unfinished
from hpe_tasks.data.coco import find_root
from hpe_tasks.data.digests import DigestCache, digest_content
from hpe_tasks.data.download import FetchedFile, fetch, fetch_file, local_path
from hpe_tasks.data.mirror import mirror_prefix
from hpe_tasks.data.storage import locked, storage_errors
from hpe_tasks.data.transports import public_address
from hpe_tasks.errors import DatasetError, DigestError
from hpe_tasks.results import FetchedDataset
from hpe_tasks.s3 import S3Location

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.data.sample import SampleSpec

__all__ = ["fetch_dataset", "fetch_file"]

log = logging.getLogger(__name__)

_ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def fetch_dataset(
    config: DatasetConfig, cache: Path, s3: Callable[[], S3Client], *, sample: SampleSpec | None = None
) -> tuple[Path, FetchedDataset]:
    """The folder that holds the data set's two splits on this machine, and what it is.

    A local folder is used in place. Everything else is kept under `cache`, under names made from content or
    address, and is complete or absent: a second call finds it and is quick.

    Args:
        config: Where the data set is and which splits are used.
        cache: Folder for downloads, extracted archives and remembered digests.
        s3: Makes the client when it is needed.
        sample: What the built-in sample holds, where it is not the usual one.

    Raises:
        DatasetError: There is nothing at the address, or not in COCO layout.
        ArchiveError: The archive is broken or hostile.
        DigestError: The archive is not the one that was promised.
        AccessError: The server denies it.
        TransientError: The network failed; the next call continues.
        StorageError: The disk is full or not writable.
    """
    splits = tuple(dict.fromkeys((config.calibration_split, config.evaluation_split)))
    root = find_root(_folder(config, cache, s3, splits, sample), splits)
    content = digest_content(root, splits, cache / "digests")
    source = public_address(config.source) if "://" in config.source else config.source
    return root, FetchedDataset(
        source=source, digest=content.digest, num_files=content.num_files, size_bytes=content.size_bytes
    )


def _folder(
    config: DatasetConfig,
    cache: Path,
    s3: Callable[[], S3Client],
    splits: tuple[str, ...],
    sample: SampleSpec | None,
) -> Path:
    source = config.source
    if source == SAMPLE:
        _no_digest(config, "the sample")
        return _sample(cache, splits, sample)
    if source.startswith("s3://") and not source.lower().endswith(_ARCHIVE_SUFFIXES):
        _no_digest(config, "an S3 prefix")
        return mirror_prefix(S3Location.parse(source), s3(), splits, cache / "s3")
    if "://" in source and not source.lower().startswith("file://"):
        return _unpacked(fetch(source, _downloads(cache, source), sha256=config.sha256, s3=s3), cache)
    path = local_path(source)
    if path.is_dir():
        _no_digest(config, "a folder")
        return path
    if not path.is_file():
        raise DatasetError(
            f"The data set {source!r} does not exist.",
            hint="Set dataset.source to a folder, an archive, an s3:// or http(s):// address, or `sample`.",
        )
    digests = DigestCache(cache / "digests" / "archives.json")
    found = FetchedFile(path, digests.sha256(path.resolve()))
    digests.save()
    if config.sha256 not in {None, found.sha256}:
        raise DigestError(
            f"{path} has the SHA-256 {found.sha256}, not {config.sha256}.",
            hint="Fetch it from a source that you trust, or correct dataset.sha256.",
        )
    return _unpacked(found, cache)


def _no_digest(config: DatasetConfig, what: str) -> None:
    if config.sha256 is not None:
        raise DatasetError(
            f"dataset.sha256 is set, but {config.source!r} is {what}: only an archive has a SHA-256.",
            hint="Remove dataset.sha256, or give the archive.",
        )


def _downloads(cache: Path, source: str) -> Path:
    # One folder for each address: different servers use the same file names.
    return cache / "downloads" / hashlib.sha256(source.encode()).hexdigest()[:16]


def _unpacked(archive: FetchedFile, cache: Path) -> Path:
    folder = cache / "archives" / archive.sha256
    with locked(folder):
        if not folder.is_dir():
            remove_unfinished(folder)
            log.info("Unpacking %s", archive.path)
            extract_archive(archive.path, folder)
    return folder


def _sample(cache: Path, splits: tuple[str, ...], spec: SampleSpec | None) -> Path:
    from hpe_tasks.data import sample

    spec = spec or sample.SampleSpec()
    # A sample drawn by other code is another sample.
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("sample*.py")))
    key = hashlib.sha256(repr((spec, sorted(splits))).encode() + code).hexdigest()[:16]
    folder = cache / "samples" / key
    with locked(folder):
        for leftover in folder.parent.glob(f".{key}.*.making"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not folder.is_dir():
            with storage_errors(folder):
                working = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".making", dir=folder.parent))
            try:
                sample.make_sample(working, spec, splits=splits)
                with storage_errors(folder):
                    working.chmod(0o755)
                    working.rename(folder)
            finally:
                shutil.rmtree(working, ignore_errors=True)
    return folder
