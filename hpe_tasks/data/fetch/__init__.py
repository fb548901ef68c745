"""Bringing a data set to this machine, whatever its address: afterwards it is a folder in the usual layout."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.config.run import SAMPLE, DatasetConfig
from hpe_tasks.data.coco import find_root
from hpe_tasks.data.fetch import layouts
from hpe_tasks.data.fetch.digests import DigestCache, coco_files, digest_content, mpii_files
from hpe_tasks.data.fetch.download import FetchedFile, fetch_file
from hpe_tasks.data.fetch.sources import Sources, refuse_digest
from hpe_tasks.data.fetch.transports import shown_address
from hpe_tasks.errors import DatasetError
from hpe_tasks.records import FetchedDataset
from hpe_tasks.storage.files import digest_of, sha256_file
from hpe_tasks.storage.folders import make_folder

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from hpe_tasks.data.sample import SampleSpec

__all__ = ["fetch_boxes", "fetch_dataset", "fetch_file"]

log = logging.getLogger(__name__)

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
        AccessError: The server denies it.
        TransientError: The network failed; the next call continues.
        StorageError: The disk is full or not writable.
    """
    sources = Sources(cache, s3)
    splits = tuple(dict.fromkeys((config.calibration_split, config.evaluation_split)))
    if config.kind == "mpii":
        root = _mpii_root(config, sources, splits)
        files = mpii_files(root.resolve(), splits, config.evaluation_split)
    else:
        if config.source == SAMPLE:
            refuse_digest(config.sha256, config.source, "the sample")
            folder = _sample(cache, splits, sample)
        elif config.images_by_url:
            from hpe_tasks.data.fetch.coco_images import fetch_needed_images

            records = _coco_records(config, sources, splits)
            folder = fetch_needed_images(records, config, cache, calibration_images=calibration_images, seed=seed)
        elif config.image_archives is not None:
            folder = _coco_joined(config, sources, splits)
        else:
            parts = layouts.parts_of("coco", splits, images=True)
            folder = sources.folder(config.source, option="dataset.source", sha256=config.sha256, parts=parts)
            layouts.refuse_file(folder)
            layouts.refuse_other_kind("coco", folder)
        root = find_root(folder, splits)
        files = coco_files(root.resolve(), splits)
    content = digest_content(root.resolve(), files, cache / "digests")
    boxes = _boxes(config, sources)
    return root, FetchedDataset(
        source=shown_address(config.source),
        digest=content.digest,
        num_files=content.num_files,
        size_bytes=content.size_bytes,
        boxes_sha256=None if boxes is None else boxes.sha256,
    )


def fetch_boxes(config: DatasetConfig, cache: Path, s3: Callable[[], S3Client]) -> Path | None:
    """The file with detected boxes on this machine; None where the configuration names none.

    Raises:
        DatasetError: It is an archive.
        HpeError: It cannot be fetched; see `download.fetch`.
    """
    found = _boxes(config, Sources(cache, s3))
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


def _coco_records(config: DatasetConfig, sources: Sources, splits: tuple[str, ...]) -> Path:
    """A folder with `annotations/`; its images are elsewhere."""
    found = sources.folder(
        config.source,
        option="dataset.source",
        sha256=config.sha256,
        parts=layouts.parts_of("coco", splits, images=False),
    )
    layouts.refuse_file(found)
    annotations = layouts.find_annotations("coco", found, splits)
    if annotations is None:
        layouts.refuse_annotations("coco", found, splits)
    if annotations.name == "annotations":
        return annotations.parent
    return layouts.join({"annotations": annotations}, sources.cache / "joined")


def _image_sources(config: DatasetConfig, sources: Sources) -> dict[str, Path]:
    """The folders with the archives' content, by address."""
    return {
        address: sources.folder(address, option="dataset.image_archives", sha256=None)
        for address in config.image_archives or ()
    }


def _coco_joined(config: DatasetConfig, sources: Sources, splits: tuple[str, ...]) -> Path:
    parts = {"annotations": _coco_records(config, sources, splits) / "annotations"}
    folders = _image_sources(config, sources)
    for split in splits:
        images = layouts.find_images("coco", folders.values(), split)
        if images is None:
            layouts.refuse_images("coco", folders, split)
        parts[f"images/{split}"] = images
    return layouts.join(parts, sources.cache / "joined")


def _mpii_root(config: DatasetConfig, sources: Sources, splits: tuple[str, ...]) -> Path:
    """The folder with `annot/` and `images/`: one that the source has, or both joined."""
    apart = config.image_archives is not None
    found = sources.folder(
        config.source,
        option="dataset.source",
        sha256=config.sha256,
        parts=layouts.parts_of("mpii", splits, images=not apart),
    )
    annotations = _mpii_annotations(config, sources, found, splits)
    folders = _image_sources(config, sources) if apart else {config.source: found}
    images = layouts.find_images("mpii", (folder for folder in folders.values() if folder.is_dir()), "")
    if images is None:
        layouts.refuse_images("mpii", folders, config.evaluation_split)
    if annotations.name == "annot" and annotations.parent == images.parent:
        return images.parent
    return layouts.join({"annot": annotations, "images": images}, sources.cache / "joined")


def _mpii_annotations(config: DatasetConfig, sources: Sources, found: Path, splits: tuple[str, ...]) -> Path:
    """The folder with the splits' annotations in the Simple Baselines layout; converted where need be."""
    if found.is_file():
        originals = [found]
    elif annotations := layouts.find_annotations("mpii", found, splits):
        if config.valid_images is not None:
            raise DatasetError(
                f"dataset.valid_images is set, but {annotations} holds annotations that are split already.",
                hint="Leave dataset.valid_images out, or give MPII's original annotation file as dataset.source.",
            )
        return annotations
    else:
        originals = layouts.mpii_originals(found)
    if len(originals) != 1:
        layouts.refuse_annotations("mpii", found, splits)
    names = None if config.valid_images is None else _image_names(sources.download(config.valid_images).path)
    converted = _converted(originals[0], sources.cache, names)
    annotations = layouts.find_annotations("mpii", converted, splits)
    if annotations is None:
        layouts.refuse_annotations("mpii", converted, splits)
    return annotations


def _image_names(path: Path) -> list[str]:
    """The names that a text file lists, each once; published lists repeat an image for each of its persons."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DatasetError(
            f"dataset.valid_images: {path} is not a text file.", hint="Give one file name on each line."
        ) from None
    return sorted({line.strip() for line in lines} - {""})


def _converted(original: Path, cache: Path, valid_images: list[str] | None) -> Path:
    from hpe_tasks.data.mpii import mat
    from hpe_tasks.data.mpii import original as mpii_original

    digests = DigestCache(cache / "digests" / "archives.json")
    # Annotations that other code converted are others.
    code = [sha256_file(Path(file)) for file in (mpii_original.__file__, mat.__file__)]
    key = digest_of([digests.sha256(original.resolve()), code, valid_images])
    digests.save()
    folder = cache / "converted" / key[:16]

    def convert(working: Path) -> None:
        result = mpii_original.convert_original(original, working, valid_images=valid_images)
        log.info(
            "Converted %s to the splits %s; %s persons of training images lack joints, a scale, a position or a head "
            "box and are left out.",
            original.name,
            " and ".join(f"{split} ({persons:,} persons)" for split, persons in result.persons.items()),
            f"{result.skipped:,}",
        )
        if valid_images is None:
            log.warning(
                "The splits of %s are not those that published figures were measured on: for these, name the images "
                "that validate in dataset.valid_images, or give the annotations of Simple Baselines.",
                original.name,
            )

    make_folder(folder, convert)
    return folder


def _sample(cache: Path, splits: tuple[str, ...], spec: SampleSpec | None) -> Path:
    from hpe_tasks.data import sample

    spec = spec or sample.SampleSpec()
    # A sample drawn by other code is another sample.
    code = b"".join(path.read_bytes() for path in sorted(Path(sample.__file__).parent.glob("*.py")))
    key = hashlib.sha256(repr((spec, sorted(splits))).encode() + code).hexdigest()[:16]
    folder = cache / "samples" / key
    make_folder(folder, lambda working: sample.make_sample(working, spec, splits=splits))
    return folder
