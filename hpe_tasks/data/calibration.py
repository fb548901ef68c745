"""Which images calibrate the quantized model: drawn by seed, and never one that judges it."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from hpe_tasks.data.coco import CocoKeypoints
from hpe_tasks.errors import DatasetError
from hpe_tasks.workspace import sha256_file

log = logging.getLogger(__name__)

_SHOWN = 5


def draw_calibration(dataset: CocoKeypoints, evaluation: CocoKeypoints, *, num_images: int, seed: int) -> CocoKeypoints:
    """Draw images that show at least one person.

    Images are ranked by a hash of seed and image id: the draw is the same on every machine, and a larger one holds
    the smaller ones.

    Args:
        dataset: The split to draw from.
        evaluation: The split that metrics are measured on.
        num_images: How many; all there are, with a warning, when the split has fewer.
        seed: Another seed draws other images.

    Raises:
        DatasetError: The splits share an image id or a file name, a drawn image has the same bytes as one of the
            evaluation split, a file is missing, or no image shows a person.
    """
    _refuse(
        dataset,
        evaluation,
        "image ids",
        {i.id for i in dataset.images} & {i.id for i in evaluation.images},
        hint="Renumber one of them, or use splits that share no image.",
    )
    _refuse(
        dataset,
        evaluation,
        "file names",
        {i.file_name for i in dataset.images} & {i.file_name for i in evaluation.images},
        hint="Use splits that share no image.",
    )
    candidates = [image for image in dataset.images if dataset.persons(image.id)]
    if not candidates:
        raise DatasetError(
            f"The calibration split {dataset.split!r} has no image with a person that has labelled keypoints.",
            hint="Set dataset.calibration_split to a split that shows people.",
        )
    if len(candidates) < num_images:
        log.warning(
            "The calibration split %r has only %d images with persons, not %d: all are used.",
            dataset.split,
            len(candidates),
            num_images,
        )
    candidates.sort(key=lambda image: hashlib.sha256(f"{seed} {image.id}".encode()).digest())
    drawn = dataset.subset(image.id for image in candidates[:num_images])
    _refuse(
        dataset,
        evaluation,
        "image contents",
        (f"{a.name} = {b.name}" for a, b in identical_files(_paths(drawn), _paths(evaluation))),
        hint="Remove the copies from one of the splits.",
    )
    return drawn


def identical_files(some: Iterable[Path], others: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Pairs of files with the same bytes; only files of equal size are read.

    Raises:
        DatasetError: A file is missing.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in others:
        by_size[_size(path)].append(path)
    digests: dict[Path, str] = {}

    def digest(path: Path) -> str:
        if path not in digests:
            digests[path] = sha256_file(path)
        return digests[path]

    return [(a, b) for a in some for b in by_size.get(_size(a), ()) if digest(a) == digest(b)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError as error:
        raise DatasetError(f"The image {path} does not exist.", hint="Complete the data set.") from error


def _paths(dataset: CocoKeypoints) -> list[Path]:
    return [dataset.image_path(image) for image in dataset.images]


def _refuse(
    dataset: CocoKeypoints, evaluation: CocoKeypoints, what: str, shared: Iterable[object], *, hint: str
) -> None:
    found = sorted(str(item) for item in shared)
    if found:
        names = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        raise DatasetError(
            f"The calibration split {dataset.split!r} and the evaluation split {evaluation.split!r} share "
            f"{len(found)} {what}: {names}.",
            hint=hint,
        )
