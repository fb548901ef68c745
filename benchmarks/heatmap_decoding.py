"""Measures the reading of joints from heatmaps: the product's decoder against a plain loop over persons and joints.

    python benchmarks/heatmap_decoding.py [--persons 1 8 64] [--joints 17] [--size 48 64] [--repeats 50] [--json]

Both decode the same noisy heatmaps in turns, on one core, and must give the same joints and scores. The plain decoder
goes the way of the reference code of Simple Baselines, one joint after the other: maximum, quarter-pixel shift, affine
transform. Times are the processor time of the fastest turn, so that other work on the machine counts little; a turn of
the product is several calls, to last about as long as one of the plain decoder. The last column is the time that
NumPy's `argmax` over all heatmaps takes alone, below which the product cannot come.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PIXEL_STD = 200.0
# Of an image of 640×480; the heatmap's pixels are up to eight of the image's.
IMAGE_TOLERANCE = 1e-3


def decode_plainly(heatmaps: np.ndarray, centers: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count, joints, height, width = heatmaps.shape
    keypoints = np.zeros((count, joints, 2), dtype=np.float32)
    scores = np.zeros((count, joints), dtype=np.float32)
    for person in range(count):
        factor = scales[person][0] * PIXEL_STD / width
        x0, y0 = centers[person] - factor * np.array([width / 2, height / 2])
        to_image = np.array([[factor, 0.0, x0], [0.0, factor, y0]])
        for joint in range(joints):
            heatmap = heatmaps[person][joint]
            index = np.argmax(heatmap)
            score = heatmap.reshape(-1)[index]
            point = np.array([index % width, index // width], dtype=np.float64)
            if score <= 0:
                point[:] = 0
            px, py = math.floor(point[0] + 0.5), math.floor(point[1] + 0.5)
            if 1 < px < width - 1 and 1 < py < height - 1:
                difference = np.array(
                    [heatmap[py][px + 1] - heatmap[py][px - 1], heatmap[py + 1][px] - heatmap[py - 1][px]]
                )
                point += np.sign(difference) * 0.25
            keypoints[person, joint] = np.dot(to_image, np.array([point[0], point[1], 1.0]))
            scores[person, joint] = score
    return keypoints, scores


CALLS = {"plain_ms": 1, "product_ms": 15, "argmax_ms": 15}


def cpu_ms(call: Callable[[], object], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls * 1e3


def measure(persons: int, joints: int, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    from hpe_tasks.pose.codecs.heatmaps import decode_heatmaps, encode_heatmaps

    rng = np.random.default_rng(persons)
    points = rng.uniform((0, 0), size, (persons, joints, 2))
    heatmaps, _ = encode_heatmaps(points, np.ones((persons, joints)), size, 2.0)
    heatmaps += rng.normal(0, 0.02, heatmaps.shape).astype(np.float32)
    heatmaps[rng.random((persons, joints)) < 0.05] *= -1  # Without a positive value, or with its peak in the noise.
    centers = rng.uniform((0, 0), (640, 480), (persons, 2))
    scales = np.repeat(rng.uniform(0.3, 2.4, (persons, 1)), 2, axis=1)

    expected, got = decode_plainly(heatmaps, centers, scales), decode_heatmaps(heatmaps, centers, scales)
    np.testing.assert_allclose(got[0], expected[0], rtol=0, atol=IMAGE_TOLERANCE)
    np.testing.assert_array_equal(got[1], expected[1])

    maps = heatmaps.reshape(persons * joints, -1)
    decoders: dict[str, Callable[[], object]] = {
        "plain_ms": lambda: decode_plainly(heatmaps, centers, scales),
        "product_ms": lambda: decode_heatmaps(heatmaps, centers, scales),
        "argmax_ms": lambda: maps.argmax(axis=1),
    }
    fastest = dict.fromkeys(decoders, math.inf)
    for _ in range(repeats):
        for name, decode in decoders.items():
            fastest[name] = min(fastest[name], cpu_ms(decode, CALLS[name]))
    return {"persons": persons, **fastest, "ratio": fastest["plain_ms"] / fastest["product_ms"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--joints", type=int, default=17)
    parser.add_argument("--size", type=int, nargs=2, default=[48, 64], help="width and height of a heatmap")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_CORE.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_CORE})
    size = (arguments.size[0], arguments.size[1])
    rows = [measure(persons, arguments.joints, size, arguments.repeats) for persons in arguments.persons]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{arguments.joints} heatmaps of {size[0]}×{size[1]} for each person, one core\n")
    print("| persons | product, ms | plain, ms | ratio | argmax alone, ms |")
    print("|---|---|---|---|---|")
    for row in rows:
        cells = f"{row['product_ms']:.3f} | {row['plain_ms']:.2f} | {row['ratio']:.0f}× | {row['argmax_ms']:.3f}"
        print(f"| {row['persons']} | {cells} |")


if __name__ == "__main__":
    main()
