"""The persons of a split: `annot/<split>.json`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpe_tasks.data.annotation_files import is_safe_file_name
from hpe_tasks.data.dataset import Box, ImageCrops, Region, Stratum, Subject, stratum
from hpe_tasks.data.json_files import read_json
from hpe_tasks.datasets import MPII
from hpe_tasks.errors import DatasetError
from hpe_tasks.metrics.pckh import HEAD_FACTOR
from hpe_tasks.pose.crops import BOX_PADDING, PIXEL_STD
from hpe_tasks.pose.skeletons import MPII16

FIRST_PIXEL = 1.0
"""Coordinate of the first pixel in the files."""

CENTER_SHIFT = 15.0
"""The crop's centre lies this much lower than the annotated one, in pixels for each unit of scale."""

LARGE_SCALE = 3.0
"""Scale of MPII from which a person counts as large: a body of 600 pixels."""

# Room around a person's joints, in heads: their extent ends at the ankles and at the top of the head.
_AROUND_JOINTS = 0.5

_LAYOUT_HINT = "An MPII data set holds images/, annot/<split>.json and, to be evaluated on, annot/gt_<split>.mat."

_JOINTS = len(MPII16.joints)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MpiiPerson:
    """An annotated person; pixels count from 1, as in the file.

    Attributes:
        index: Position in the annotation file: the person's column in the .mat file.
        image: File name in `images/`.
        center: (x, y), roughly the middle of the body.
        scale: Height of the body in units of 200 pixels.
        joints: 16×2 float64 in the order of `MPII16`; meaningless where not labelled.
        visible: 16 booleans: whether the joint is labelled. A labelled joint may be hidden in the image.
    """

    index: int
    image: str
    center: tuple[float, float]
    scale: float
    joints: NDArray[np.float64]
    visible: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class MpiiDataset:
    """One split: the persons of `annot/<split>.json`, in its order."""

    root: Path
    split: str
    persons: tuple[MpiiPerson, ...]

    kind = MPII
    skeleton = MPII16
    size_name = "size of the head"

    @property
    def annotation_file(self) -> Path:
        """`annot/<split>.json`."""
        return annotation_path(self.root, self.split)

    @property
    def truth_file(self) -> Path:
        """`annot/gt_<split>.mat`; splits that only serve calibration have none."""
        return truth_path(self.root, self.split)

    @property
    def images(self) -> tuple[str, ...]:
        """File names of the images, sorted."""
        return tuple(sorted({person.image for person in self.persons}))

    @property
    def image_ids(self) -> tuple[str, ...]:
        """What tells images apart: their file names, sorted."""
        return self.images

    @property
    def num_images(self) -> int:
        """Images of the split."""
        return len(self.images)

    @property
    def num_persons(self) -> int:
        """Persons of the split, each of whom is cropped."""
        return len(self.persons)

    def image_path(self, person: MpiiPerson) -> Path:
        """Where the person's photograph lies; it may be missing."""
        return self.root / "images" / person.image

    def subset(self, images: Iterable[str]) -> MpiiDataset:
        """The same split with the persons of these images only; raises DatasetError for one that it lacks."""
        wanted = set(images)
        unknown = sorted(wanted - set(self.images))
        if unknown:
            raise DatasetError(f"The split {self.split!r} has no person in the image {unknown[0]}.")
        return replace(self, persons=tuple(person for person in self.persons if person.image in wanted))

    def image_files(self) -> dict[str, Path]:
        """Where each image lies, by its file name; a file may be missing."""
        return {person.image: self.image_path(person) for person in self.persons}

    def image_names(self) -> dict[str, set[Any]]:
        """File names of the images."""
        return {"file names": set(self.images)}

    def strata(self) -> dict[str, Stratum]:
        """The images that show people, each with what kind of scene it shows."""
        shown = {image: [p for p in persons if p.visible.any()] for image, persons in self._by_image().items()}
        return {
            image: stratum(large=largest.scale >= LARGE_SCALE, joints=int(largest.visible.sum()), persons=len(persons))
            for image, persons in shown.items()
            if persons and (largest := max(persons, key=lambda person: person.scale))
        }

    def annotated_boxes(self) -> list[tuple[Path, tuple[Box, ...]]]:
        """The images with annotated people, and the squares that give their crops."""
        return sorted(
            (self.image_path(persons[0]), tuple(_square(person) for person in persons))
            for persons in self._by_image().values()
        )

    def subjects(self) -> tuple[Subject, ...]:
        """The persons with a labelled joint, in one form for every kind; raises DatasetError as `load_truth` does."""
        from hpe_tasks.data.mpii.truth import load_truth

        boxes = load_truth(self).head_boxes
        heads = HEAD_FACTOR * np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1)
        return tuple(
            self._subject(person, head)
            for person, head in zip(self.persons, heads.tolist(), strict=True)
            if person.visible.any()
        )

    def _subject(self, person: MpiiPerson, head: float) -> Subject:
        points = person.joints - FIRST_PIXEL
        low = points[person.visible].min(axis=0) - _AROUND_JOINTS * head
        width, height = points[person.visible].max(axis=0) + _AROUND_JOINTS * head - low
        return Subject(
            number=person.index,
            image=person.image,
            path=self.image_path(person),
            caption=f"{person.image}, person {person.index} of the annotation file",
            joints=points,
            labelled=person.visible,
            box=(float(low[0]), float(low[1]), float(width), float(height)),
            size=head,
        )

    def crops(self, _input_size: tuple[int, int], /) -> Iterator[ImageCrops[MpiiPerson]]:
        """Cut persons out by annotated centre and scale.

        Persons of one image come together, images in the order in which the split first names them.
        """
        for persons in self._by_image().values():
            yield ImageCrops(self.image_path(persons[0]), tuple(persons), partial(_regions, persons))

    def _by_image(self) -> dict[str, list[MpiiPerson]]:
        by_image: dict[str, list[MpiiPerson]] = {}
        for person in self.persons:
            by_image.setdefault(person.image, []).append(person)
        return by_image


def annotation_path(root: Path, split: str) -> Path:
    """`annot/<split>.json` of a data set."""
    return MPII.layout.annotation_path(root, split)


def truth_path(root: Path, split: str) -> Path:
    """`annot/gt_<split>.mat` of a data set."""
    return root / "annot" / f"gt_{split}.mat"


def crop_region(person: MpiiPerson) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the centre and scale of a person's crop, as Simple Baselines derives them from the annotation.

    The centre is moved down by 15 pixels for each unit of scale, the scale grown by 1.25, and then the centre is
    counted from 0.

    Returns:
        `center` (x, y) in image pixels counted from 0, and `scale` (w, h) in units of 200 pixels.
    """
    x, y = person.center
    center = np.array([x, y + CENTER_SHIFT * person.scale]) - FIRST_PIXEL
    return center, np.full(2, person.scale * BOX_PADDING)


def _regions(persons: Sequence[MpiiPerson], _size: tuple[int, int]) -> list[Region]:
    return [crop_region(person) for person in persons]


def _square(person: MpiiPerson) -> Box:
    """The box that gives a person's crop, as far as it lies in the image: clipping takes one pixel off each side."""
    center, scale = crop_region(person)
    (x, y), side = center.tolist(), float(scale[0]) * PIXEL_STD / BOX_PADDING
    return x - side / 2, y - side / 2, side + 1, side + 1


def to_file_pixels(points: ArrayLike) -> NDArray[np.float64]:
    """Turn image pixels counted from 0, as predictions are, into those of MPII's files, which count from 1."""
    return np.asarray(points, dtype=np.float64) + FIRST_PIXEL


def load_mpii(root: Path, split: str) -> MpiiDataset:
    """Read the persons of a split.

    Raises:
        DatasetError: The file is missing, is not a JSON list, is empty, or holds a record that cannot be used; names
            the file and the record.
    """
    path = annotation_path(root, split)
    persons = tuple(_person(row, index, path) for index, row in enumerate(read_records(path)))
    if not persons:
        raise DatasetError(f"{path} lists no persons.", hint="Give the annotation file of a split with persons.")
    if counts_from_zero(np.stack([p.joints for p in persons]), np.stack([p.visible for p in persons])):
        log.warning(
            "%s has joints at pixel 0 and none below: it may count pixels from 0, where MPII counts from 1. "
            "The data set's validation looks into that with the sizes of the images.",
            path,
        )
    return MpiiDataset(root, split, persons)


def read_records(path: Path) -> list[Any]:
    """The records of an annotation file, whatever they hold.

    Raises:
        DatasetError: The file is missing or is not a JSON list.
    """
    rows = read_json(path, if_missing=_LAYOUT_HINT)
    if not isinstance(rows, list):
        raise DatasetError(
            f"{path} is not an MPII annotation file: its top level is not a list of persons.", hint=_LAYOUT_HINT
        )
    return rows


def counts_from_zero(joints: NDArray[np.float64], visible: NDArray[np.bool_]) -> bool:
    """Whether labelled joints look as if pixels were counted from 0.

    A file that counts from 1 has no joint in [0, 1) unless joints are also labelled outside the images, and then
    some are negative too. So: some in [0, 1), none below. A file may count from 0 without any joint at a border:
    this is a sign, not a proof, and so is only warned of.

    Args:
        joints: N×16×2.
        visible: N×16.
    """
    labelled = joints[visible]
    return bool(((labelled >= 0) & (labelled < FIRST_PIXEL)).any() and not (labelled < 0).any())


def _person(row: Any, index: int, path: Path) -> MpiiPerson:
    if fault := record_fault(row):
        raise DatasetError(
            f"{path}: person number {index} cannot be read: {fault}.",
            hint="Correct the record; validate_dataset lists all that are wrong.",
        )
    return as_person(row, index)


def as_person(row: dict[str, Any], index: int) -> MpiiPerson:
    """Take a record in which `record_fault` finds no fault for a person."""
    x, y = (float(value) for value in row["center"])
    return MpiiPerson(
        index=index,
        image=row["image"],
        center=(x, y),
        scale=float(row["scale"]),
        joints=np.asarray(row["joints"], dtype=np.float64),
        visible=np.asarray(row["joints_vis"]) > 0,
    )


def record_fault(row: Any) -> str:
    """What is wrong with a record of an annotation file; empty when it can be used."""
    if not isinstance(row, dict):
        return "it is not an object"
    for field, (usable, fault) in _FIELDS.items():
        if field not in row:
            return f"{field!r} is missing"
        if not usable(row[field]):
            return fault
    return ""


def _are_numbers(values: object, count: int) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) == count
        # A whole number may be too large for a float; pixels are not.
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9 for v in values)
    )


def _are_joints(values: object) -> bool:
    return isinstance(values, list) and len(values) == _JOINTS and all(_are_numbers(joint, 2) for joint in values)


def _are_flags(values: object) -> bool:
    return isinstance(values, list) and _are_numbers(values, _JOINTS) and all(value in (0, 1) for value in values)


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "image": (is_safe_file_name, "image is not a file name inside images/"),
    "center": (lambda value: _are_numbers(value, 2), "center is not two numbers"),
    "scale": (lambda value: _are_numbers([value], 1) and value > 0, "scale is not a positive number"),
    "joints": (_are_joints, f"joints are not {_JOINTS} pairs of numbers"),
    "joints_vis": (_are_flags, f"joints_vis is not {_JOINTS} numbers that are 0 or 1"),
}
