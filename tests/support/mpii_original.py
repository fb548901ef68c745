"""MPII's own annotation file, built with the nested structs that it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

EMPTY = np.zeros((0, 0))


def struct(*rows: dict[str, Any]) -> np.ndarray:
    """A MATLAB struct array of one row."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in rows[0]])
    for element, row in zip(array[0], rows, strict=True):
        for name, value in row.items():
            element[name] = value
    return array


HEAD = {"x1": 40.0, "y1": 10.0, "x2": 60.0, "y2": 40.0}


def person(offset: float = 0.0, ids: Sequence[int] = range(16), **changes: Any) -> dict[str, Any]:
    points = [
        # MPII writes the visibility as text, as a number, or not at all.
        {"x": 100.0 + 3 * i + offset, "y": 200.0 + 5 * i, "id": i, "is_visible": ("1", "0", 1, EMPTY)[i % 4]}
        for i in ids
        if i not in (8, 9)
    ]
    points += [
        {"x": 51.5, "y": 38.75, "id": 8, "is_visible": EMPTY},
        {"x": 48.5, "y": 11.25, "id": 9, "is_visible": EMPTY},
    ]
    points.reverse()  # The file's order is any.
    row = HEAD | {
        "annopoints": struct({"point": struct(*points)}),
        "scale": 2.5,
        "objpos": struct({"x": 110.0 + offset, "y": 220.0}),
    }
    return row | changes


def image(name: str, *persons: dict[str, Any], video: int = 1) -> dict[str, Any]:
    rectangles: Any = struct(*persons) if persons else EMPTY
    return {"image": struct({"name": name}), "annorect": rectangles, "frame_sec": 3.0, "vididx": video}


# Digests put video 3 among the tenth that validates.
TRAINING = [
    image("a.jpg", person(), person(7.0, scale=EMPTY), person(9.0, annopoints=EMPTY)),
    image("nobody.jpg"),
    image("b.jpg", person(20.0, ids=[i for i in range(16) if i not in (0, 5)]), video=2),
]


def write(path: Path, images: list[dict[str, Any]], training: list[int] | None = None) -> Path:
    release = {
        "annolist": struct(*images),
        "img_train": np.array([training or [1] * len(images)], dtype=np.uint8),
        "version": "12",
        "single_person": EMPTY,
    }
    scipy.io.savemat(path, {"RELEASE": struct(release)})
    return path
