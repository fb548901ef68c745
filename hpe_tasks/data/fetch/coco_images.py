"""A small data set out of a large one: only the images that a run needs, each from the address in its record."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hpe_tasks.config.addresses import carries_credential, is_web_address, public_address
from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data import annotation_files, calibration, coco
from hpe_tasks.data import dataset as dataset_module
from hpe_tasks.data.annotation_files import annotation_path, image_folder, read_annotations
from hpe_tasks.data.coco import LEFT_OUT, CocoDataset, parse_coco
from hpe_tasks.data.fetch.digests import DigestCache
from hpe_tasks.data.fetch.image_pool import ImagePool, PooledImage, WantedImage
from hpe_tasks.errors import DatasetError
from hpe_tasks.storage.files import digest_of, link_file, sha256_file, storage_errors, write_atomically
from hpe_tasks.storage.folders import make_folder

log = logging.getLogger(__name__)

MANIFEST = "fetched.jsonl"
"""One line for each image in the small data set's folder: file, url, sha256, size_bytes."""

_Which = Literal["with_persons", "all"] | tuple[int, int]
"""Images of a split that are needed: those of the evaluation, or (number, seed) of those that calibrate."""


def fetch_needed_images(
    annotations: Path, config: DatasetConfig, cache: Path, *, calibration_images: int, seed: int
) -> Path:
    """The folder of a data set with the images that a run of this configuration looks at, and their annotations.

    The images are kept in `cache/images`, whichever selections they are part of, and are fetched once. A selection
    is complete or absent; what it holds depends on the annotations, the configuration and the seed alone.

    Args:
        annotations: Folder that holds `annotations/` with the complete files.
        config: Names of the splits, and which images of the evaluation split count.
        cache: Folder for images and selections.
        calibration_images: How many images of the calibration split are chosen, where it is not the evaluation split.
        seed: Seed of that choice.

    Raises:
        DatasetError: The annotations cannot be used, a record has no address, or images cannot be had.
        TransientError: The network failed; the next call continues.
        StorageError: The disk is full or not writable.
    """
    wanted: dict[str, _Which] = {
        config.calibration_split: (calibration_images, seed),
        config.evaluation_split: config.evaluation_images,
    }
    digests = DigestCache(cache / "digests" / "annotations.json")
    contents = {split: digests.sha256(annotation_path(annotations, split).resolve()) for split in wanted}
    digests.save()
    # Images that other code chooses are another selection.
    modules = (calibration.__file__, coco.__file__, annotation_files.__file__, dataset_module.__file__, __file__)
    code = [sha256_file(Path(file)) for file in modules]
    folder = cache / "selections" / digest_of([wanted, contents, code])[:16]

    def fill(working: Path) -> None:
        rows = {split: _cut(annotations, split, which, working) for split, which in wanted.items()}
        pool = ImagePool(
            cache / "images",
            requests_per_second=config.requests_per_second,
            allow_private_addresses=config.allow_private_addresses,
        )
        pooled = pool.fetch([image for images in rows.values() for image in images])
        _link(working, rows, pooled)

    make_folder(folder, fill)
    return folder


def _choose(dataset: CocoDataset, which: _Which) -> Collection[int]:
    if isinstance(which, tuple):
        count, seed = which
        chosen = set(calibration.choose_calibration(dataset, num_images=count, seed=seed))
    else:
        chosen = {image.id for image in dataset.images if which == "all" or dataset.persons(image.id)}
    if not chosen:
        raise DatasetError(
            f"{dataset.annotation_file} lists no image with persons.",
            hint="Check dataset.calibration_split and dataset.evaluation_split.",
        )
    log.info("%d of %d images of %s are needed", len(chosen), len(dataset.images), dataset.split)
    return chosen


def _cut(annotations: Path, split: str, which: _Which, root: Path) -> list[WantedImage]:
    """Write the annotation file with the needed images only, crowds and other categories included; returns them.

    What is written keeps no credential that an image's address carries.
    """
    path = annotation_path(annotations, split)
    content = read_annotations(path)
    dataset = parse_coco(content, annotations, split)
    chosen = _choose(dataset, which)
    content[LEFT_OUT] = sorted(dataset.left_out.union(dataset.image_ids).difference(chosen))
    content["images"] = [row for row in content["images"] if int(row["id"]) in chosen]
    names = {str(image_id) for image_id in chosen}
    content["annotations"] = [row for row in content["annotations"] if str(row.get("image_id")) in names]
    wanted = [_wanted(row, path) for row in content["images"]]
    for row, image in zip(content["images"], wanted, strict=True):
        if carries_credential(image.url):
            row["coco_url"] = public_address(image.url)
    write_atomically(annotation_path(root, split), json.dumps(content, separators=(",", ":")).encode())
    return wanted


def _wanted(row: Mapping[str, Any], path: Path) -> WantedImage:
    url = row.get("coco_url")
    if not is_web_address(url):
        raise DatasetError(
            f"{path}: image {row['id']} ({row['file_name']}) has no coco_url with an http(s):// address.",
            hint="Set dataset.image_archives instead of dataset.images_by_url.",
        )
    return WantedImage(row["file_name"], url, int(row["width"]), int(row["height"]))


def _link(root: Path, rows: Mapping[str, Sequence[WantedImage]], pooled: Mapping[str, PooledImage]) -> None:
    manifest = []
    with storage_errors(root):
        for split, images in rows.items():
            folder = image_folder(root, split)
            for image in sorted(images, key=lambda image: image.name):
                found, path = pooled[image.url], folder / image.name
                path.parent.mkdir(parents=True, exist_ok=True)
                link_file(found.path, path)
                entry = {
                    "file": path.relative_to(root).as_posix(),
                    "url": public_address(image.url),
                    "sha256": found.sha256,
                    "size_bytes": found.size_bytes,
                }
                manifest.append(json.dumps(entry))
    write_atomically(root / MANIFEST, "".join(f"{line}\n" for line in manifest).encode())
