"""Makes small COCO keypoint data sets, and changes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hpe_tasks.pose.skeletons import COCO17

CALIBRATION, EVALUATION = "train2017", "val2017"
WIDTH, HEIGHT = 64, 48


def write_coco(
    root: Path, *, splits: tuple[str, ...] = (CALIBRATION, EVALUATION), images: int = 3, names: str = "{id:012d}.jpg"
) -> Path:
    """A data set with two persons and a crowd in every image; the id of an image is 100·split + number."""
    (root / "annotations").mkdir(parents=True)
    for number, split in enumerate(splits, start=1):
        folder = root / "images" / split
        folder.mkdir(parents=True)
        ids = [100 * number + i for i in range(images)]
        records: list[dict[str, Any]] = [
            {"id": i, "file_name": names.format(id=i, split=split), "width": WIDTH, "height": HEIGHT} for i in ids
        ]
        for record in records:
            write_image(folder / record["file_name"], seed=record["id"])
        annotations = [
            row
            for i in ids
            for row in (
                person(10 * i + 2, i, (2, 2, 20, 40)),
                person(10 * i + 1, i, (30, 4, 25, 40)),
                person(10 * i, i, (0, 0, 60, 40), iscrowd=1, num_keypoints=0, keypoints=[0] * 51),
            )
        ]
        content = {
            "images": records,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints), "skeleton": [[1, 2]]}],
        }
        annotations_file(root, split).write_text(json.dumps(content))
    return root


def annotations_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"person_keypoints_{split}.json"


def write_image(path: Path, *, seed: int, size: tuple[int, int] = (WIDTH, HEIGHT), mode: str = "RGB") -> None:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def person(annotation_id: int, image_id: int, box: tuple[float, ...], **changes: Any) -> dict[str, Any]:
    """An annotation with 15 labelled joints inside the box and two unlabelled."""
    x, y, w, h = box
    joints = [(x + w * (i + 1) / 20, y + h * (i + 1) / 20, 1 + i % 2) for i in range(15)] + [(0, 0, 0)] * 2
    row = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": list(box),
        "area": w * h / 2,
        "num_keypoints": 15,
        "keypoints": [value for joint in joints for value in joint],
    }
    return row | changes


@contextmanager
def edited(root: Path, split: str = EVALUATION) -> Iterator[dict[str, Any]]:
    """The content of the split's annotation file, written back afterwards."""
    path = annotations_file(root, split)
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))
