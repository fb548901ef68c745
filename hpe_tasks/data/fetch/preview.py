"""What a data set's addresses offer, before anything is fetched: in seconds, where fetching may take hours."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hpe_tasks.config.addresses import shown_address
from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.fetch import layouts
from hpe_tasks.data.fetch.download import Offer, local_path
from hpe_tasks.data.fetch.mirror import check_prefix
from hpe_tasks.data.fetch.sources import Sources, is_matlab_file, is_prefix, refuse_absent, refuse_digest
from hpe_tasks.data.formats import format_of
from hpe_tasks.datasets import DatasetKind
from hpe_tasks.errors import ArchiveError, DatasetError
from hpe_tasks.storage.files import megabytes
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.untrusted.tar import PlainTarInfo

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SAMPLE_BYTES = 20_000_000
"""What the drawn sample takes in the cache."""


@dataclass(frozen=True)
class Preview:
    """What an address offers.

    Attributes:
        text: In a few words.
        missing_bytes: What fetching will write into the cache, downloads and unpacked; 0 where it is not known.
    """

    text: str
    missing_bytes: int = 0


def preview_source(config: DatasetConfig, cache: Path, s3: Callable[[], S3Client]) -> Preview:
    """Look at `dataset.source`: a folder's layout, an archive's table of contents, or what a server says of it.

    Raises:
        DatasetError: There is nothing at the address, or a split's annotations or images are missing.
        ArchiveError: It is neither a folder nor an archive.
        HpeError: It cannot be reached or read; see `download.look` and `mirror.mirror_prefix`.
    """
    splits = config.splits
    address, images = config.source, not (config.images_by_url or config.image_archives)
    shown = f"the splits {' and '.join(splits)}"
    if address == SAMPLE:
        refuse_digest(config.sha256, address, "the sample")
        return Preview("drawn here by the project", SAMPLE_BYTES)
    if is_prefix(address):
        refuse_digest(config.sha256, address, "an S3 prefix")
        location = S3Location.parse(address)
        check_prefix(location, s3(), config.described.layout.parts(splits, images=images))
        return Preview(f"{location} holds {shown}")
    if "://" not in address or address.lower().startswith("file://"):
        path = local_path(address)
        if path.is_dir():
            refuse_digest(config.sha256, address, "a folder")
            layouts.refuse_other_kind(config.described, path)
            format_of(config.described).check_folder(path, config, splits, images=images)
            return Preview(f"{path} holds {shown}")
        if not path.is_file():
            refuse_absent(address, "dataset.source")
    offer = Sources(cache, s3, config.allow_private_addresses).look(address)
    if offer.here is not None:
        _check_archive(offer.here, config.described, splits)
    return _preview(address, offer, unpacked=True)


def preview_file(
    address: str,
    cache: Path,
    s3: Callable[[], S3Client],
    *,
    option: str,
    unpacked: bool,
    allow_private_addresses: bool = False,
) -> Preview:
    """Look at another file of the data set: an archive of images (`unpacked`), detected boxes, a list of names.

    Raises:
        DatasetError: There is nothing at the address.
        ArchiveError: What should be an archive of images is not an archive.
        HpeError: It cannot be reached or read; see `download.look`.
    """
    if "://" not in address or address.lower().startswith("file://"):
        path = local_path(address)
        if unpacked and path.is_dir():
            return Preview(f"{path} is a folder")
        if not path.is_file():
            refuse_absent(address, option)
    offer = Sources(cache, s3, allow_private_addresses).look(address)
    if unpacked and offer.here is not None:
        _names_in(offer.here)
    return _preview(address, offer, unpacked=unpacked)


def _preview(address: str, offer: Offer, *, unpacked: bool) -> Preview:
    shown = shown_address(address)
    if offer.here is not None:
        return Preview(f"{shown}, {megabytes(offer.here.stat().st_size)}, is on this machine")
    if offer.size_bytes is None:
        return Preview(f"{shown} can be fetched; its server does not say how large it is")
    # An archive's content needs about as much again; images hardly compress.
    return Preview(f"{shown} can be fetched, {megabytes(offer.size_bytes)}", (2 if unpacked else 1) * offer.size_bytes)


def _check_archive(path: Path, kind: DatasetKind, splits: Sequence[str]) -> None:
    """Raise where a file cannot be the data set; what is in a .tar would take reading it all, and is seen later."""
    if is_matlab_file(path):
        if kind.layout.originals is None:
            layouts.refuse_file(kind, path)
        return
    names = _names_in(path)
    if not names or (kind.layout.originals and any(name.endswith(".mat") for name in names)):
        return
    wanted = [kind.layout.annotation_names(split) for split in splits]
    missing = [ways[0] for ways in wanted if names.isdisjoint(ways)]
    if missing:
        there = sorted(name for name in names if name.endswith(".json"))
        raise DatasetError(
            f"{path} holds no {missing[0]}. Its .json files: {', '.join(there[:8]) or 'none'}.",
            hint="Check dataset.source, dataset.kind, dataset.calibration_split and dataset.evaluation_split.",
        )


def _names_in(path: Path) -> set[str]:
    """Names of a .zip's files without their folders; none for a .tar, whose table would take reading it all."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return {PurePosixPath(name).name for name in archive.namelist()}
        # Not `is_tarfile`, which reads a first header of any size.
        with suppress(tarfile.TarError), tarfile.open(path, tarinfo=PlainTarInfo):
            return set()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ArchiveError(f"{path} cannot be read: {error}.", hint="Fetch it again.") from error
    raise ArchiveError(f"{path} is neither a .zip nor a .tar archive, or it is cut off.", hint="Give one, or a folder.")
