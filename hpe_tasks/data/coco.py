"""Data sets whose annotations have COCO's form: the images and persons of a split.

Coordinates are pixels of the image as it is stored (an EXIF orientation is not applied), boxes are (x, y, w, h).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hpe_tasks.data.annotation_files import (
    crowd_index_fault,
    is_safe_file_name,
    joint_names,
    person_category,
    read_annotations,
)
from hpe_tasks.data.dataset import Box, Dataset, ImageCrops, Region, Stratum, Subject, stratum
from hpe_tasks.data.image_files import Unreadable
from hpe_tasks.data.own_joints import OwnJoints, read_own_joints, warn_of_derived
from hpe_tasks.datasets import COCO, DatasetKind
from hpe_tasks.errors import ConfigError, DatasetError
from hpe_tasks.pose.crops import box_to_center_scale
from hpe_tasks.pose.skeletons import COCO17, Skeleton

LEFT_OUT = "images_left_out"
"""Key of an annotation file's top level: ids of the split's images that were cut from it."""

LARGE_AREA = 96.0**2
"""Segment area in square pixels from which COCO counts a person as large."""


@dataclass(frozen=True)
class CocoImage:
    """An image record; `width` and `height` are those that the annotation file claims.

    Attributes:
        crowd_index: How crowded it is, in [0, 1]; None where the kind of data set does not say.
    """

    id: int
    file_name: str
    width: int
    height: int
    crowd_index: float | None = None


@dataclass(frozen=True, eq=False)
class Person:
    """An annotated person.

    Attributes:
        box: (x, y, w, h) exactly as in the file: it may exceed the image a little.
        joints: K×3 float32: x, y, visibility (0 not labelled, 1 hidden, 2 visible).
        area: Segment area in square pixels: the scale of OKS.
    """

    annotation_id: int
    image_id: int
    box: tuple[float, float, float, float]
    joints: npt.NDArray[np.float32]
    area: float
    num_joints: int


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """One split of a data set whose annotation files have COCO's form.

    Attributes:
        root: Folder that holds the annotations and images, in the layout of the kind.
        joint_names: In the order of `Person.joints`.
        images: Sorted by id.
        left_out: Ids of the split's other images, where only a part of a split was fetched: files about the whole
            split, such as detected boxes, may name them.
    """

    root: Path
    split: str
    joint_names: tuple[str, ...]
    images: tuple[CocoImage, ...]
    persons_by_image: Mapping[int, tuple[Person, ...]] = field(repr=False)
    left_out: frozenset[int] = field(default=frozenset(), repr=False)
    kind: DatasetKind = field(default=COCO, repr=False)
    own_joints: OwnJoints | None = field(default=None, repr=False)

    size_name = "person's size (√area)"

    @property
    def annotation_file(self) -> Path:
        """The split's annotations, as pycocotools reads them."""
        return self.kind.layout.annotation_path(self.root, self.split)

    @property
    def skeleton(self) -> Skeleton:
        """The file's joints, and its own limbs or those of the kind's that lie between them."""
        if self.own_joints is not None:
            return self.own_joints.skeleton
        limbs = () if self.kind.skeleton is None else self.kind.skeleton.limbs
        return Skeleton(name="dataset", joints=self.joint_names, limbs=limbs)

    @property
    def sigmas(self) -> Mapping[str, float]:
        """OKS sigma by the name of the joint; a joint without one is not compared."""
        return self.kind.sigmas if self.own_joints is None else self.own_joints.sigmas

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Joints whose accuracy is reported together."""
        return self.kind.groups if self.own_joints is None else self.own_joints.groups

    @property
    def num_images(self) -> int:
        """Images of the split."""
        return len(self.images)

    @property
    def image_ids(self) -> tuple[int, ...]:
        """Ids of the images, sorted."""
        return tuple(image.id for image in self.images)

    @property
    def num_persons(self) -> int:
        """Persons with at least one labelled joint."""
        return sum(len(self.persons(image.id)) for image in self.images)

    def image_path(self, image: CocoImage) -> Path:
        """Where the image's file lies; it may be missing."""
        return self.kind.layout.image_folder(self.root, self.split) / image.file_name

    def image_files(self) -> dict[int, Path]:
        """Where each image lies, by its id; a file may be missing."""
        return {image.id: self.image_path(image) for image in self.images}

    def image_names(self) -> dict[str, set[Any]]:
        """Ids and file names of the images."""
        return {"image ids": set(self.image_ids), "file names": {image.file_name for image in self.images}}

    def persons(self, image_id: int) -> tuple[Person, ...]:
        """The image's persons with at least one labelled joint, crowds left out, sorted by annotation id."""
        return self.persons_by_image.get(image_id, ())

    def all_persons(self) -> tuple[Person, ...]:
        """Every person of the split, sorted by image id, then annotation id."""
        return tuple(person for image in self.images for person in self.persons(image.id))

    def subset(self, image_ids: Iterable[int]) -> CocoDataset:
        """The same split with these images only; raises DatasetError for an id that the split lacks."""
        wanted = set(image_ids)
        images = tuple(image for image in self.images if image.id in wanted)
        unknown = sorted(wanted - {image.id for image in images})
        if unknown:
            raise DatasetError(f"The split {self.split!r} has no image with id {unknown[0]}.")
        persons = {i.id: self.persons_by_image[i.id] for i in images if i.id in self.persons_by_image}
        return replace(self, images=images, persons_by_image=persons)

    def strata(self) -> dict[int, Stratum]:
        """The images that show people, each with what kind of scene it shows."""
        return {
            image: stratum(large=largest.area >= LARGE_AREA, joints=largest.num_joints, persons=len(persons))
            for image in self.image_ids
            if (persons := self.persons(image)) and (largest := max(persons, key=lambda person: person.area))
        }

    def annotated_boxes(self) -> list[tuple[Path, tuple[Box, ...]]]:
        """The images with annotated people, and their boxes."""
        return [
            (self.image_path(image), tuple(person.box for person in persons))
            for image in self.images
            if (persons := self.persons(image.id))
        ]

    def subjects(self) -> tuple[Subject, ...]:
        """The annotated persons, in one form for every kind."""
        return tuple(
            Subject(
                number=person.annotation_id,
                image=image.id,
                path=self.image_path(image),
                caption=f"Image {image.id}, {image.file_name}, annotation {person.annotation_id}",
                joints=person.joints[:, :2].astype(np.float64),
                labelled=person.joints[:, 2] > 0,
                box=person.box,
                size=float(np.sqrt(max(person.area, 1.0))),
            )
            for image in self.images
            for person in self.persons(image.id)
        )

    def crops(
        self, input_size: tuple[int, int], persons: Sequence[Person] | None = None
    ) -> Iterator[ImageCrops[Person]]:
        """Cut persons out by their annotated boxes, clipped to their images.

        Args:
            input_size: (W, H) of the network's input.
            persons: Whom to cut out, those of an image together; by default everybody, by image id and annotation id.
        """
        records = {image.id: image for image in self.images}
        for image_id, group in groupby(self.all_persons() if persons is None else persons, key=lambda p: p.image_id):
            image, in_image = records[image_id], tuple(group)
            path = self.image_path(image)
            yield ImageCrops(path, in_image, partial(_box_regions, path, image, in_image, input_size))


def in_whole_images(dataset: Dataset) -> CocoDataset:
    """The split of a kind whose images can be shown whole; raises ConfigError for one that is measured in crops."""
    if not isinstance(dataset, CocoDataset):
        raise ConfigError(f"{dataset.kind.title} is measured in crops by its own annotations.")
    return dataset


def wrong_size(path: Path, image: CocoImage, size: tuple[int, int]) -> Unreadable | None:
    """Say what is wrong when an image's (W, H) is not that of its record, which its annotations refer to."""
    if size == (image.width, image.height):
        return None
    return Unreadable(path, f"is {size[0]}×{size[1]} pixels, but its record says {image.width}×{image.height}")


def _box_regions(
    path: Path, image: CocoImage, persons: Sequence[Person], input_size: tuple[int, int], size: tuple[int, int]
) -> list[Region] | Unreadable:
    if fault := wrong_size(path, image, size):
        return fault
    regions = []
    for person in persons:
        try:
            regions.append(box_to_center_scale(person.box, size, input_size))
        except DatasetError as error:
            return Unreadable(path, f"does not fit annotation {person.annotation_id}: {error.message.rstrip('.')}")
    return regions


def load_coco(root: Path, split: str, kind: DatasetKind = COCO) -> CocoDataset:
    """Read a split's annotations; raises DatasetError as `read_annotations` and `parse_coco` do."""
    return parse_coco(read_annotations(kind.layout.annotation_path(root, split), kind), root, split, kind)


def parse_coco(content: Mapping[str, Any], root: Path, split: str, kind: DatasetKind = COCO) -> CocoDataset:
    """The split whose annotation file holds `content`, as `read_annotations` gives it.

    Joint names come from the file's categories, or are those of COCO where the file lists none.

    Raises:
        DatasetError: There are no joints, or a record cannot be used; names the file and the record.
    """
    path = kind.layout.annotation_path(root, split)
    category = person_category(content)
    own = None if kind.skeleton is not None else read_own_joints(category, path, kind, root)
    if own is not None and own.derived:
        warn_of_derived(path, own.derived)
    names = joint_names(category) if category else COCO17.joints
    if kind.renames and kind.skeleton is not None:
        if category is None or len(names) != len(kind.skeleton.joints):
            raise DatasetError(
                f"{path}: {kind.title} has {len(kind.skeleton.joints)} joints, and its category does not name as many.",
                hint=f"Give {kind.title}'s own annotations, or set dataset.kind to custom.",
            )
        names = kind.skeleton.joints
    images = sorted((_image(row, path, kind) for row in content["images"]), key=lambda image: image.id)
    known = {image.id for image in images}
    if len(known) != len(images):
        twice = next(a.id for a, b in pairwise(images) if a.id == b.id)
        raise DatasetError(f"{path}: the image id {twice} is there twice.", hint="Give every image its own id.")
    rows = [row for row in content["annotations"] if category is None or row.get("category_id") == category.get("id")]
    if not any(row.get("keypoints") for row in rows):
        raise DatasetError(
            f"{path} holds no joints.", hint="Give person_keypoints_<split>.json, not instances_<split>.json."
        )
    persons: dict[int, list[Person]] = {}
    for row in rows:
        if row.get("iscrowd") or not row.get("num_keypoints", 0):
            continue
        person = _person(row, len(names), path)
        if person.image_id not in known:
            raise DatasetError(
                f"{path}: annotation {person.annotation_id} belongs to image {person.image_id}, which is not listed.",
                hint="Add the image's record or remove the annotation.",
            )
        persons.setdefault(person.image_id, []).append(person)
    by_image = {i: tuple(sorted(group, key=lambda person: person.annotation_id)) for i, group in persons.items()}
    return CocoDataset(root, split, names, tuple(images), by_image, _left_out(content, path), kind, own)


def _left_out(content: Mapping[str, Any], path: Path) -> frozenset[int]:
    ids = content.get(LEFT_OUT, [])
    if not isinstance(ids, list) or not all(isinstance(image_id, int) for image_id in ids):
        raise DatasetError(f"{path}: {LEFT_OUT!r} is not a list of image ids.", hint="Remove it.")
    return frozenset(ids)


def _image(row: Mapping[str, Any], path: Path, kind: DatasetKind) -> CocoImage:
    if fault := crowd_index_fault(row, kind):
        raise _bad_record(path, "image", row, ValueError(fault))
    crowd = None if kind.crowd_levels is None else float(row[kind.crowd_levels.field])
    try:
        image = CocoImage(int(row["id"]), row["file_name"], int(row["width"]), int(row["height"]), crowd)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _bad_record(path, "image", row, error) from error
    if not is_safe_file_name(image.file_name):
        raise DatasetError(
            f"{path}: image {image.id} has the file_name {image.file_name!r}, which is not inside the split's folder.",
            hint="Use names relative to images/<split>/.",
        )
    return image


def _person(row: Mapping[str, Any], count: int, path: Path) -> Person:
    try:
        joints = np.asarray(row["keypoints"], dtype=np.float32)
        x, y, w, h = (float(value) for value in row["bbox"])
        person = Person(
            annotation_id=int(row["id"]),
            image_id=int(row["image_id"]),
            box=(x, y, w, h),
            joints=joints.reshape(count, 3),
            area=float(row["area"]),
            num_joints=int(row["num_keypoints"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _bad_record(path, "annotation", row, error) from error
    return person


def _bad_record(path: Path, kind: str, row: Mapping[str, Any], error: Exception) -> DatasetError:
    reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
    return DatasetError(
        f"{path}: the {kind} with id {row.get('id')!r} cannot be read: {reason}.",
        hint="Correct the record; validate_dataset lists all that are wrong.",
    )
