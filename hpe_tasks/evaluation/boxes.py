"""Boxes of persons that a detector found: a COCO results file.

They are taken as they are, as Simple Baselines takes them: only annotated boxes are clipped to their image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpe_tasks.data.coco import CocoDataset, CocoImage
from hpe_tasks.data.json_files import read_json
from hpe_tasks.errors import DatasetError

_HINT = "Give a JSON list of detections: image_id, category_id, bbox [x, y, w, h] in pixels, score."


@dataclass(frozen=True)
class DetectedPerson:
    """A detected person: box (x, y, w, h) in image pixels, and the detector's score."""

    image_id: int
    box: tuple[float, float, float, float]
    score: float


def load_boxes(path: Path, dataset: CocoDataset, category_id: int) -> dict[int, list[DetectedPerson]]:
    """Read the persons of a COCO results file, by image, in the order of the file.

    Args:
        path: The file; detections of other categories and in images that were left out are passed over.
        dataset: The split.
        category_id: Of persons.

    Raises:
        DatasetError: The file is missing or is not such a list; an entry is incomplete, is not finite, lies in no image
            of the split or outside its image, or has no extent. Names the file and the entry.
    """
    images: dict[int, CocoImage | None] = dict.fromkeys(dataset.left_out)
    images |= {image.id: image for image in dataset.images}
    boxes: dict[int, list[DetectedPerson]] = {}
    for number, entry in enumerate(_read_list(path)):
        try:
            person = _person(entry, images, category_id)
        except ValueError as error:
            raise DatasetError(f"{path}: entry number {number}: {error}", hint=_HINT) from error
        if person is not None:
            boxes.setdefault(person.image_id, []).append(person)
    return boxes


def _read_list(path: Path) -> list[Any]:
    content = read_json(path, if_missing="Check dataset.boxes.")
    if not isinstance(content, list):
        raise DatasetError(f"{path} is not a list of detections.", hint=_HINT)
    return content


def _person(entry: Any, images: Mapping[int, CocoImage | None], category_id: int) -> DetectedPerson | None:
    if not isinstance(entry, dict):
        raise ValueError("it is not an object.")  # noqa: TRY004
    missing = [field for field in ("image_id", "category_id", "bbox", "score") if field not in entry]
    if missing:
        raise ValueError(f"{missing[0]!r} is missing.")
    if entry["category_id"] != category_id:
        return None
    image_id = entry["image_id"]
    if not isinstance(image_id, int) or image_id not in images:
        raise ValueError(f"the split has no image with the id {image_id!r}.")
    image = images[image_id]
    if image is None:
        return None
    box, score = entry["bbox"], entry["score"]
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
        raise ValueError(f"bbox is {box!r}, not four numbers.")
    if not _is_number(score):
        raise ValueError(f"score is {score!r}, not a number.")
    x, y, width, height = (float(value) for value in box)
    if width <= 0 or height <= 0:
        raise ValueError(f"its box is {width:g}×{height:g} pixels: it has no extent.")
    if x + width <= 0 or y + height <= 0 or x >= image.width or y >= image.height:
        raise ValueError(f"its box {box} lies outside its image of {image.width}×{image.height} pixels.")
    return DetectedPerson(image.id, (x, y, width, height), float(score))


def _is_number(value: Any) -> bool:
    # JSON's whole numbers have no limit, but a float has; pixels and scores are far below both.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
