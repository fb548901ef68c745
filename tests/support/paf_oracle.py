"""A deliberately plain decoder of part-affinity fields: the protocol step by step, on maps of the image's size.

It shares no code or table with the product's decoder, which must find the same persons.

What the protocol leaves to rounding is settled here, so that a tie is a tie whatever the order of the additions:
values count as equal within 1e-9 where a pixel is compared with its neighbours and where limbs are ordered by score;
of limbs with equal scores the one whose first end comes first in its map, row by row, is taken first, then the one
whose second end does.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

LIMBS = [
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (2, 16), (5, 17),
]  # fmt: skip
CHANNELS = [
    (12, 13), (20, 21), (14, 15), (16, 17), (22, 23), (24, 25), (0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11),
    (28, 29), (30, 31), (34, 35), (32, 33), (36, 37), (18, 19), (26, 27),
]  # fmt: skip
TO_COCO = [0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
EQUAL = 1e-9

# Of a map: (column, row, score). A person: `ends` (number of the peak of each joint), `count` and `score`.
Peaks = list[tuple[int, int, float]]
Person = dict[str, Any]


def decode(
    heatmaps: np.ndarray, pafs: np.ndarray, image_size: tuple[int, int], dtype: type = np.float64
) -> list[tuple[np.ndarray, float]]:
    """The persons as (17×3: x, y, visibility in COCO's order, score)."""
    # Map by map: OpenCV rounds the weights of an image of many channels to single precision, whatever the image's type.
    heat = [cv2.resize(heatmap.astype(dtype), image_size, interpolation=cv2.INTER_LINEAR) for heatmap in heatmaps]
    fields = [cv2.resize(paf.astype(dtype), image_size, interpolation=cv2.INTER_LINEAR) for paf in pafs]
    peaks = [find_peaks(heat[joint]) for joint in range(18)]
    limbs = [
        connect(fields[x], fields[y], peaks[first], peaks[second], image_size[1])
        for (first, second), (x, y) in zip(LIMBS, CHANNELS, strict=True)
    ]
    return [in_coco_order(person, peaks) for person in assemble(limbs, peaks)]


def find_peaks(heatmap: np.ndarray) -> list[tuple[int, int, float]]:
    """(x, y, score) of each peak, row by row."""
    smooth = gaussian_filter(heatmap, sigma=3, mode="reflect", truncate=4)
    padded = np.pad(smooth, 1)
    peak = smooth > 0.1
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        peak &= smooth >= neighbour - EQUAL
    return [(int(x), int(y), float(heatmap[y, x])) for y, x in np.argwhere(peak)]


def connect(
    field_x: np.ndarray, field_y: np.ndarray, firsts: Peaks, seconds: Peaks, image_height: int
) -> list[tuple[int, int, float]]:
    """(number of the first end, of the second end, score) of each limb that is taken."""
    candidates = []
    for i, (x1, y1, _) in enumerate(firsts):
        for j, (x2, y2, _) in enumerate(seconds):
            length = math.hypot(x2 - x1, y2 - y1)
            if length == 0:
                continue
            xs = np.linspace(x1, x2, 10).astype(int)
            ys = np.linspace(y1, y2, 10).astype(int)
            products = [
                field_x[y, x] * (x2 - x1) / length + field_y[y, x] * (y2 - y1) / length
                for x, y in zip(xs, ys, strict=True)
            ]
            score = sum(products) / 10 + min(0.5 * image_height / length - 1, 0)
            if sum(product > 0.05 for product in products) > 8 and score > 0:
                candidates.append((i, j, score))
    taken: list[tuple[int, int, float]] = []
    for i, j, score in sorted(candidates, key=lambda limb: (-round(limb[2], 9), limb[0], limb[1])):
        if all(i != other[0] and j != other[1] for other in taken):
            taken.append((i, j, score))
    return taken


def assemble(limbs: list[list[tuple[int, int, float]]], peaks: list[Peaks]) -> list[Person]:
    persons: list[Person] = []
    for k, (first, second) in enumerate(LIMBS):
        for i, j, limb_score in limbs[k]:
            holders = [p for p in persons if p["ends"].get(first) == i or p["ends"].get(second) == j]
            if len(holders) == 1 and holders[0]["ends"].get(second) != j:
                take_end(holders[0], second, j, peaks[second][j][2] + limb_score)
            elif len(holders) >= 2:
                one, other = holders[0], holders[1]
                if not set(one["ends"]) & set(other["ends"]):
                    one["ends"].update(other["ends"])
                    one["count"] += other["count"]
                    one["score"] += other["score"] + limb_score
                    persons = [person for person in persons if person is not other]
                else:
                    # As published: it takes the end even where it holds it already.
                    take_end(one, second, j, peaks[second][j][2] + limb_score)
            elif not holders and k < 17:
                score = peaks[first][i][2] + peaks[second][j][2] + limb_score
                persons.append({"ends": {first: i, second: j}, "count": 2, "score": score})
    return [person for person in persons if person["count"] >= 4 and person["score"] / person["count"] >= 0.4]


def take_end(person: Person, joint: int, number: int, score: float) -> None:
    person["ends"][joint] = number
    person["count"] += 1
    person["score"] += score


def in_coco_order(person: Person, peaks: list[Peaks]) -> tuple[np.ndarray, float]:
    keypoints = np.zeros((17, 3))
    found = 0
    for joint, number in person["ends"].items():
        coco = TO_COCO[joint]
        if coco is None:
            continue
        x, y, _ = peaks[joint][number]
        keypoints[coco] = x - 0.5, y - 0.5, 1
        found += 1
    return keypoints, person["score"] / found
