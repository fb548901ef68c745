"""COCO keypoint data sets: the layout on disk, and the images and persons of a split.

Coordinates are pixels of the image as it is stored (an EXIF orientation is not applied), boxes are (x, y, w, h).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from hpe_tasks.data.json_files import read_json
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.skeletons import COCO17

LEFT_OUT = "images_left_out"
"""Key of an annotation file's top level: ids of the split's images that were cut from it."""

_LAYOUT_HINT = "A data set holds images/<split>/ and annotations/person_keypoints_<split>.json."

_IMAGES_HINT = (
    "Where the images are in archives of their own, name these in dataset.image_archives; where their records have "
    "addresses, set dataset.images_by_url."
)


@dataclass(frozen=True)
class CocoImage:
    """An image record; `width` and `height` are those that the annotation file claims."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Person:
    """An annotated person.

    Attributes:
        box: (x, y, w, h) exactly as in the file: it may exceed the image a little.
        keypoints: K×3 float32: x, y, visibility (0 not labelled, 1 hidden, 2 visible).
        area: Segment area in square pixels: the scale of OKS.
    """

    annotation_id: int
    image_id: int
    box: tuple[float, float, float, float]
    keypoints: npt.NDArray[np.float32]
    area: float
    num_keypoints: int


@dataclass(frozen=True, eq=False)
class CocoKeypoints:
    """One split of a COCO keypoint data set.

    Attributes:
        root: Folder that holds `annotations/` and `images/`.
        keypoint_names: Joint names in the order of `Person.keypoints`.
        images: Sorted by id.
        left_out: Ids of the split's other images, where only a part of a split was fetched: files about the whole
            split, such as detected boxes, may name them.
    """

    root: Path
    split: str
    keypoint_names: tuple[str, ...]
    images: tuple[CocoImage, ...]
    persons_by_image: Mapping[int, tuple[Person, ...]] = field(repr=False)
    left_out: frozenset[int] = field(default=frozenset(), repr=False)

    @property
    def annotation_file(self) -> Path:
        """The split's annotations, as pycocotools reads them."""
        return annotation_path(self.root, self.split)

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
        return image_folder(self.root, self.split) / image.file_name

    def persons(self, image_id: int) -> tuple[Person, ...]:
        """The image's persons with at least one labelled joint, crowds left out, sorted by annotation id."""
        return self.persons_by_image.get(image_id, ())

    def all_persons(self) -> tuple[Person, ...]:
        """Every person of the split, sorted by image id, then annotation id."""
        return tuple(person for image in self.images for person in self.persons(image.id))

    def subset(self, image_ids: Iterable[int]) -> CocoKeypoints:
        """The same split with these images only; raises DatasetError for an id that the split lacks."""
        wanted = set(image_ids)
        images = tuple(image for image in self.images if image.id in wanted)
        unknown = sorted(wanted - {image.id for image in images})
        if unknown:
            raise DatasetError(f"The split {self.split!r} has no image with id {unknown[0]}.")
        persons = {i.id: self.persons_by_image[i.id] for i in images if i.id in self.persons_by_image}
        return replace(self, images=images, persons_by_image=persons)


def annotation_path(root: Path, split: str) -> Path:
    """`annotations/person_keypoints_<split>.json` of a data set."""
    return root / "annotations" / f"person_keypoints_{split}.json"


def image_folder(root: Path, split: str) -> Path:
    """The folder of a split's images: `images/<split>/`, or `<split>/` as COCO's own archives unpack."""
    usual, bare = root / "images" / split, root / split
    return bare if bare.is_dir() and not usual.is_dir() else usual


def splits_present(root: Path) -> tuple[str, ...]:
    """Names of the splits that have both annotations and an image folder, sorted."""
    names = (path.stem.removeprefix("person_keypoints_") for path in root.glob("annotations/person_keypoints_*.json"))
    return tuple(sorted(name for name in names if image_folder(root, name).is_dir()))


def find_root(folder: Path, splits: Sequence[str]) -> Path:
    """The folder that holds the layout: `folder`, or its only sub-folder as archives often have one.

    Raises:
        DatasetError: A split's annotations or images are missing; says what was looked for and what is there.
    """
    visible = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))
    root = folder
    if not (folder / "annotations").is_dir() and len(visible) == 1 and visible[0].is_dir():
        root = visible[0]
    for split in splits:
        if not annotation_path(root, split).is_file():
            _missing(root, f"annotations/person_keypoints_{split}.json")
        if not image_folder(root, split).is_dir():
            _missing(root, f"images/{split}/", _IMAGES_HINT)
    return root


def _missing(root: Path, what: str, more_hint: str = "") -> NoReturn:
    complete = splits_present(root)
    if complete:
        there = "It has these splits: " + ", ".join(complete) + "."
        hint = "Set dataset.calibration_split and dataset.evaluation_split to two of them, or add the missing one."
    else:
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in root.iterdir())
        there = "It holds: " + (", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "nothing") + "."
        hint = _LAYOUT_HINT
    raise DatasetError(f"The data set in {root} has no {what}. {there}", hint=f"{hint} {more_hint}".rstrip())


def read_annotations(path: Path) -> dict[str, Any]:
    """The annotation file's top level: `images`, `annotations` and `categories` are lists of objects.

    Raises:
        DatasetError: The file is missing, is not JSON, or has another top level; names the file.
    """
    content = read_json(path, if_missing=_LAYOUT_HINT)
    if not isinstance(content, dict):
        raise DatasetError(
            f"{path} is not a COCO annotation file: its top level is not a JSON object.", hint=_LAYOUT_HINT
        )
    for name in ("images", "annotations", "categories"):
        rows = content.get(name, [] if name == "categories" else None)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DatasetError(
                f"{path} is not a COCO annotation file: {name!r} is missing or is not a list of objects.",
                hint="Give the person_keypoints_<split>.json file of the data set.",
            )
        content[name] = rows
    return content


def person_category(content: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The category whose annotations are persons with keypoints: `person`, else the first that lists keypoints."""
    listed: list[dict[str, Any]] = [category for category in content["categories"] if _names(category)]
    named = [category for category in listed if category.get("name") == "person"]
    return next(iter(named or listed), None)


def _names(category: Mapping[str, Any]) -> tuple[str, ...]:
    names = category.get("keypoints")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        return ()
    return tuple(names)


def is_safe_file_name(name: object) -> bool:
    """Whether an image's `file_name` stays inside its folder."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def load_coco(root: Path, split: str) -> CocoKeypoints:
    """Read a split's annotations; raises DatasetError as `read_annotations` and `parse_coco` do."""
    return parse_coco(read_annotations(annotation_path(root, split)), root, split)


def parse_coco(content: Mapping[str, Any], root: Path, split: str) -> CocoKeypoints:
    """The split whose annotation file holds `content`, as `read_annotations` gives it.

    Joint names come from the file's categories, or are those of COCO where the file lists none.

    Raises:
        DatasetError: There are no keypoints, or a record cannot be used; names the file and the record.
    """
    path = annotation_path(root, split)
    category = person_category(content)
    names = _names(category) if category else COCO17.joints
    images = sorted((_image(row, path) for row in content["images"]), key=lambda image: image.id)
    known = {image.id for image in images}
    if len(known) != len(images):
        twice = next(a.id for a, b in pairwise(images) if a.id == b.id)
        raise DatasetError(f"{path}: the image id {twice} is there twice.", hint="Give every image its own id.")
    rows = [row for row in content["annotations"] if category is None or row.get("category_id") == category.get("id")]
    if not any(row.get("keypoints") for row in rows):
        raise DatasetError(
            f"{path} holds no keypoints.", hint="Give person_keypoints_<split>.json, not instances_<split>.json."
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
    return CocoKeypoints(root, split, names, tuple(images), by_image, _left_out(content, path))


def _left_out(content: Mapping[str, Any], path: Path) -> frozenset[int]:
    ids = content.get(LEFT_OUT, [])
    if not isinstance(ids, list) or not all(isinstance(image_id, int) for image_id in ids):
        raise DatasetError(f"{path}: {LEFT_OUT!r} is not a list of image ids.", hint="Remove it.")
    return frozenset(ids)


def _image(row: Mapping[str, Any], path: Path) -> CocoImage:
    try:
        image = CocoImage(int(row["id"]), row["file_name"], int(row["width"]), int(row["height"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _bad_record(path, "image", row, error) from error
    if not is_safe_file_name(image.file_name):
        raise DatasetError(
            f"{path}: image {image.id} has the file_name {image.file_name!r}, which is not inside the split's folder.",
            hint="Use names relative to images/<split>/.",
        )
    return image


def _person(row: Mapping[str, Any], joints: int, path: Path) -> Person:
    try:
        keypoints = np.asarray(row["keypoints"], dtype=np.float32)
        x, y, w, h = (float(value) for value in row["bbox"])
        person = Person(
            annotation_id=int(row["id"]),
            image_id=int(row["image_id"]),
            box=(x, y, w, h),
            keypoints=keypoints.reshape(joints, 3),
            area=float(row["area"]),
            num_keypoints=int(row["num_keypoints"]),
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
