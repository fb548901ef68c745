"""Measures the paired bootstrap of an AP difference against its baseline: COCOeval run again for every resample.

    python benchmarks/bootstrap.py [--images 5000] [--resamples 10000] [--parts]

Persons and results are drawn as in `benchmarks/coco_eval.py`; the second model's joints lie a pixel aside. The
baseline is pycocotools on images that are really there as often as they were drawn, timed for --baseline resamples of
both models and multiplied: to run it on all would take hours. Every one of these resamples must give the same AP to
1e-12. With --parts sizes and groups of joints are resampled, too, as the pipeline does.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import time
from typing import Any

import numpy as np
from coco_eval import drawn_persons, drawn_results
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hpe_tasks.datasets import COCO as KIND
from hpe_tasks.metrics.bootstrap import draw_images, interval, paired_differences
from hpe_tasks.metrics.image_tables import SIZES, WHOLE, MatchTable, match_table

TOLERANCE = 1e-12
JOINTS = tuple(KIND.sigmas)
SIGMAS = tuple(KIND.sigmas.values())
Rows = list[dict[str, Any]]


def table(persons: Rows, results: Rows, image_ids: list[int], *, parts: bool) -> MatchTable:
    """The judged figure; with `parts` sizes and groups, too."""
    asked: dict[str, Any] = {WHOLE: (range(len(JOINTS)), SIGMAS)}
    if parts:
        for group, joints in KIND.groups.items():
            asked[f"group/{group}"] = ([JOINTS.index(j) for j in joints], [KIND.sigmas[j] for j in joints])
    return match_table(persons, results, asked, images=image_ids, sizes=SIZES if parts else {})


def aside(rng: np.random.Generator, results: Rows) -> Rows:
    """The same results, each joint about a pixel away."""
    moved = copy.deepcopy(results)
    for row in moved:
        points = np.reshape(row["keypoints"], (-1, 3))
        points[:, :2] += rng.normal(0, 1, points[:, :2].shape)
        row["keypoints"] = points.ravel().tolist()
    return moved


def ap_of_copies(persons: Rows, results: Rows, image_ids: list[int], counts: np.ndarray) -> float:
    """By pycocotools, of images that are there as often as `counts` says."""
    first = dict(zip(image_ids, np.concatenate(([0], np.cumsum(counts)[:-1])).tolist(), strict=True))
    times = dict(zip(image_ids, counts.tolist(), strict=True))

    def copies(rows: Rows) -> Rows:
        return [{**row, "image_id": first[row["image_id"]] + n} for row in rows for n in range(times[row["image_id"]])]

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(int(counts.sum()))],
            "annotations": [{**row, "id": number} for number, row in enumerate(copies(persons), start=1)],
            "categories": [{"id": 1, "name": "person"}],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copies(results)), "keypoints")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return float(precision[precision > -1].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--baseline", type=int, default=3, help="resamples that pycocotools runs")
    parser.add_argument("--parts", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    persons, image_ids = drawn_persons(rng, options.images)
    before = drawn_results(rng, persons, image_ids, options.detections)
    after = aside(rng, before)
    began = time.perf_counter()
    tables = [table(persons, rows, image_ids, parts=options.parts) for rows in (before, after)]
    size = len(tables[0].to_bytes())
    print(f"{options.images:,} images, {len(persons):,} annotations, {options.detections:,} results of each model")
    print(
        f"tables: {time.perf_counter() - began:.2f} s for both, {size / 1e3:,.0f} kB each, {len(tables[0].parts)} parts"
    )

    counts = draw_images(options.images, options.baseline, rng)
    began, worst = time.perf_counter(), 0.0
    for number, drawn in enumerate(counts):
        for rows, one in zip((before, after), tables, strict=True):
            expected = ap_of_copies(persons, rows, image_ids, drawn)
            worst = max(worst, abs(float(one.figures(counts[number : number + 1], (WHOLE,))[WHOLE][0]) - expected))
    each = (time.perf_counter() - began) / options.baseline
    if worst > TOLERANCE:
        raise SystemExit(f"a resample differs from pycocotools by {worst:g}")

    began, worked = time.perf_counter(), time.process_time()
    differences = paired_differences(*tables, resamples=options.resamples, seed=0)
    took, worked = time.perf_counter() - began, time.process_time() - worked
    low, high = interval(differences[WHOLE], 0.95) or (float("nan"), float("nan"))
    change = tables[1].whole()[WHOLE] - tables[0].whole()[WHOLE]
    print(f"change of AP {change:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")
    print(f"{options.resamples:,} resamples: {took:.1f} s, {worked:.1f} s of processor time, {os.cpu_count()} cores")
    baseline = each * options.resamples
    print(f"pycocotools: {each:.2f} s for one resample, {baseline / 3600:.1f} h for all: {baseline / took:,.0f} times")


if __name__ == "__main__":
    main()
