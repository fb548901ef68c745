"""Which images calibrate the quantized model: drawn by seed from all kinds of scenes, and never one that judges it."""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, overload

from hpe_tasks.data.coco import CocoKeypoints
from hpe_tasks.data.image_files import Unreadable, read_image
from hpe_tasks.data.mpii import MpiiKeypoints, MpiiPerson
from hpe_tasks.errors import DatasetError
from hpe_tasks.storage.files import sha256_file

log = logging.getLogger(__name__)

LARGE_AREA = 96.0**2
"""Segment area in square pixels from which COCO counts a person as large."""

LARGE_SCALE = 3.0
"""Scale of MPII from which a person counts as large: a body of 600 pixels."""

JOINT_CLASSES = (6, 12)
"""Labelled joints of a person at which the next class begins: few, about half, most."""

CROWD_CLASSES = (2, 4)
"""Persons in an image at which the next class begins: one, some, many. Regions marked as a crowd are not counted."""

_SHOWN = 5

Keypoints = CocoKeypoints | MpiiKeypoints
Dataset = TypeVar("Dataset", bound=Keypoints)
Name = TypeVar("Name", int, str)
Stratum = tuple[bool, int, int]


@overload
def choose_calibration(dataset: CocoKeypoints, *, num_images: int, seed: int) -> tuple[int, ...]: ...
@overload
def choose_calibration(dataset: MpiiKeypoints, *, num_images: int, seed: int) -> tuple[str, ...]: ...
def choose_calibration(dataset: Keypoints, *, num_images: int, seed: int) -> tuple[int, ...] | tuple[str, ...]:
    """Choose images that show people, from their records alone.

    The images are put in one order, and the first of it are chosen: a larger choice holds the smaller ones. Images
    are of one stratum when their largest persons are of one size class with about as many labelled joints, and when
    they show about as many people. The order begins with one image of each of the at most 18 strata; from then on
    every stratum has its share of it.

    Args:
        dataset: The split to choose from.
        num_images: How many; all that show people when there are fewer.
        seed: Another seed chooses other images; the same seed the same ones on every machine.

    Returns:
        Image ids of COCO, file names of MPII, in that order.
    """
    if isinstance(dataset, CocoKeypoints):
        return _ordered(_coco_strata(dataset), seed)[:num_images]
    return _ordered(_mpii_strata(dataset), seed)[:num_images]


def draw_calibration(dataset: Dataset, evaluation: Dataset, *, num_images: int, seed: int) -> Dataset:
    """Draw images as `choose_calibration` does, none of which judges the model.

    An image with the same bytes as one of the evaluation split is left out with a warning, and so is one that cannot
    be read; the next takes its place.

    Args:
        dataset: The split to draw from.
        evaluation: The split that metrics are measured on.
        num_images: How many; all there are, with a warning, when the split has fewer.
        seed: Another seed draws other images.

    Raises:
        DatasetError: The splits share an image id or a file name, or no image that shows a person is left.
    """
    split: Keypoints = dataset
    _refuse_shared(split, evaluation)
    paths, judged = _paths(dataset), defaultdict[int, list[Path]](list)
    for path in _paths(evaluation).values():
        if path.is_file():
            judged[path.stat().st_size].append(path)
    drawn: list[Any] = []
    left_out: list[str] = []
    for name in choose_calibration(split, num_images=len(paths), seed=seed):
        if len(drawn) == num_images:
            break
        path = paths[name]
        pixels = read_image(path)
        if isinstance(pixels, Unreadable):
            left_out.append(f"{path.name} ({pixels.reason})")
        elif twin := _twin(path, judged[path.stat().st_size]):
            left_out.append(f"{path.name} (the same image as {twin.name} of the evaluation split)")
        else:
            drawn.append(name)
    if left_out:
        log.warning("Not calibrated on %d images of %r: %s.", len(left_out), dataset.split, _listed(left_out))
    if not drawn:
        raise DatasetError(
            f"The calibration split {dataset.split!r} has no image with a person that has labelled keypoints.",
            hint="Set dataset.calibration_split to a split that shows people.",
        )
    if len(drawn) < num_images:
        log.warning(
            "The calibration split %r has only %d images with persons, not %d: all are used.",
            dataset.split,
            len(drawn),
            num_images,
        )
    return cast(Dataset, dataset.subset(drawn))


def _twin(path: Path, others: Iterable[Path]) -> Path | None:
    """The first other file with the same bytes."""
    return next((other for other in others if sha256_file(other) == sha256_file(path)), None)


def _coco_strata(dataset: CocoKeypoints) -> dict[int, Stratum]:
    strata: dict[int, Stratum] = {}
    for image in dataset.images:
        if persons := dataset.persons(image.id):
            largest = max(persons, key=lambda person: person.area)
            strata[image.id] = (
                largest.area >= LARGE_AREA,
                bisect(JOINT_CLASSES, largest.num_keypoints),
                bisect(CROWD_CLASSES, len(persons)),
            )
    return strata


def _mpii_strata(dataset: MpiiKeypoints) -> dict[str, Stratum]:
    shown: dict[str, list[MpiiPerson]] = defaultdict(list)
    for person in dataset.persons:
        if person.visible.any():
            shown[person.image].append(person)
    strata: dict[str, Stratum] = {}
    for image, persons in shown.items():
        largest = max(persons, key=lambda person: person.scale)
        strata[image] = (
            largest.scale >= LARGE_SCALE,
            bisect(JOINT_CLASSES, int(largest.visible.sum())),
            bisect(CROWD_CLASSES, len(persons)),
        )
    return strata


def _ordered(strata: Mapping[Name, Stratum], seed: int) -> tuple[Name, ...]:
    """Order names so that every stratum is spread evenly, after one name of each.

    Inside a stratum of m names a hash of seed and name decides; its k-th name then stands at (k + 1/2) / m of the
    whole order. This is systematic sampling: a prefix holds of each stratum what its share gives, to within one.
    """

    def rank(name: Name) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode()).digest()

    members: dict[Stratum, list[Name]] = defaultdict(list)
    for name, stratum in strata.items():
        members[stratum].append(name)
    placed = [
        (k > 0, (k + 0.5) / len(names), rank(name), name)
        for names in members.values()
        for k, name in enumerate(sorted(names, key=rank))
    ]
    return tuple(name for *_, name in sorted(placed))


def _paths(dataset: Keypoints) -> dict[Any, Path]:
    """The images' files by id (COCO) or file name (MPII)."""
    if isinstance(dataset, CocoKeypoints):
        return {image.id: dataset.image_path(image) for image in dataset.images}
    return {person.image: dataset.image_path(person) for person in dataset.persons}


def _refuse_shared(dataset: Keypoints, evaluation: Keypoints) -> None:
    judged = _names(evaluation)
    for what, names in _names(dataset).items():
        if shared := names & judged[what]:
            raise DatasetError(
                f"The calibration split {dataset.split!r} and the evaluation split {evaluation.split!r} share "
                f"{len(shared)} {what}: {_listed(sorted(map(str, shared)))}.",
                hint="Use splits that share no image; other images need names and ids of their own.",
            )


def _names(dataset: Keypoints) -> dict[str, set[Any]]:
    """What an image is known by, by kind of name."""
    if isinstance(dataset, CocoKeypoints):
        return {"image ids": set(dataset.image_ids), "file names": {image.file_name for image in dataset.images}}
    return {"file names": set(dataset.images)}


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
