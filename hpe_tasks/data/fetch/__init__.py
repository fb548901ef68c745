"""Bringing a data set to this machine, whatever its address: afterwards it is a folder in the usual layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.config.addresses import shown_address
from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.fetch.digests import digest_content
from hpe_tasks.data.fetch.download import FetchedFile, fetch_file
from hpe_tasks.data.fetch.sources import SourceRequest, Sources
from hpe_tasks.data.formats import format_of
from hpe_tasks.errors import DatasetError
from hpe_tasks.records.inputs import DatasetSkeleton, FetchedDataset

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.data.sample import SampleSpec

__all__ = ["fetch_boxes", "fetch_dataset", "fetch_file"]

_ARCHIVE_MAGIC = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")


def fetch_dataset(
    config: DatasetConfig,
    cache: Path,
    s3: Callable[[], S3Client],
    *,
    calibration_images: int = 200,
    seed: int = 0,
    sample: SampleSpec | None = None,
) -> tuple[Path, FetchedDataset]:
    """The folder that holds the data set's two splits on this machine, and what it is.

    A local folder is used in place. Everything else is kept under `cache`, under names made from content or
    address, and is complete or absent: a second call finds it and is quick.

    Args:
        config: Where the data set is and which splits are used.
        cache: Folder for downloads, extracted archives, images and remembered digests.
        s3: Makes the client when it is needed.
        calibration_images: With `images_by_url`: how many images of the calibration split are fetched.
        seed: With `images_by_url`: seed of the choice of those images.
        sample: What the built-in sample holds, where it is not the usual one.

    Raises:
        DatasetError: There is nothing at the address, or not in the layout of the data set's kind.
        ArchiveError: The archive is broken or hostile.
        DigestError: The archive is not the one that was promised.
        AccessError: The server denies it, or must not be asked.
        TransientError: The network failed; the next call continues.
        StorageError: The disk is full or not writable.
    """
    sources = Sources(cache, s3, config.allow_private_addresses)
    splits = config.splits
    request = SourceRequest(config, sources, splits, calibration_images, seed, sample)
    form, kind = format_of(config.described), config.described
    root = form.find_source(request)
    files = form.files(kind, root.resolve(), splits, config.evaluation_split)
    content = digest_content(root.resolve(), files, cache / "digests")
    boxes = _boxes(config, sources)
    return root, FetchedDataset(
        source=shown_address(config.source),
        digest=content.digest,
        num_files=content.num_files,
        size_bytes=content.size_bytes,
        boxes_sha256=None if boxes is None else boxes.sha256,
        own_joints=_own_joints(config, root),
    )


def _own_joints(config: DatasetConfig, root: Path) -> DatasetSkeleton | None:
    """The joints that the data set brings; None where it cannot be read: its validation says why."""
    if config.described.skeleton is not None:
        return None
    try:
        own = format_of(config.described).load(config.described, root, config.evaluation_split).skeleton
    except DatasetError:
        return None
    return DatasetSkeleton(joints=own.joints, limbs=own.limbs)


def fetch_boxes(config: DatasetConfig, cache: Path, s3: Callable[[], S3Client]) -> Path | None:
    """The file with detected boxes on this machine; None where the configuration names none.

    Raises:
        DatasetError: It is an archive.
        HpeError: It cannot be fetched; see `download.fetch`.
    """
    found = _boxes(config, Sources(cache, s3, config.allow_private_addresses))
    return None if found is None else found.path


def _boxes(config: DatasetConfig, sources: Sources) -> FetchedFile | None:
    if config.boxes is None:
        return None
    found = sources.download(config.boxes)
    with found.path.open("rb") as file:
        if file.read(5).startswith(_ARCHIVE_MAGIC):
            raise DatasetError(
                f"dataset.boxes: {shown_address(config.boxes)} is an archive.",
                hint="Unpack it and give the .json file.",
            )
    return found
