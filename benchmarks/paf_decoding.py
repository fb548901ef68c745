"""Measures the reading of people from part-affinity fields: the product's decoder against the plain one of the tests.

    python benchmarks/paf_decoding.py --data FOLDER [--repeats 3] [--people 2 5 10 20 30] [--json]

FOLDER holds `coco-mini/`. Both read the same ideal maps, one after the other, on one core: of every image of the split
with people in it, at its own size, and of scenes of 640×480 with a growing number of people, whose maps are a little
noisy. Times are the processor time of the fastest repeat, so that other work on the machine counts little. The plain
decoder is timed in single precision, its faster form and that of the published one. AP is that of pycocotools, on the
ideal maps of the whole split.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

# Where BLAS reads its number of threads, when it is loaded; and where the plain decoder lies.
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
TESTS = str(Path(__file__).resolve().parent.parent / "tests")


def cpu_ms(call: Callable[[], object], repeats: int) -> float:
    shortest = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        call()
        shortest = min(shortest, time.process_time() - start)
    return shortest * 1e3


def coco_results(image_id: int, persons: list[tuple[np.ndarray, float]]) -> list[dict[str, Any]]:
    return [
        {"image_id": image_id, "keypoints": keypoints.ravel().tolist(), "score": score} for keypoints, score in persons
    ]


def measure_split(folder: Path, split: str, repeats: int) -> dict[str, Any]:
    from hpe_tasks.data.annotation_files import read_annotations
    from hpe_tasks.data.coco import load_coco
    from hpe_tasks.metrics.oks import coco_sigmas, coco_stats
    from hpe_tasks.pose.codecs.part_affinity import decode_people
    from support import paf_oracle
    from support.paf_scenes import ideal_maps

    dataset = load_coco(folder, split)
    images = [image for image in dataset.images if dataset.persons(image.id)]
    product_ms, plain_ms = [], []
    product_results: list[dict[str, Any]] = []
    plain_results: list[dict[str, Any]] = []
    for image in images:
        size = (image.width, image.height)
        maps = ideal_maps(np.stack([person.joints for person in dataset.persons(image.id)]), size)
        people = decode_people(*maps, size)
        rows = np.concatenate([people.joints, people.found[..., None]], axis=2).astype(np.float64)
        product_results += coco_results(image.id, list(zip(rows, people.scores.tolist(), strict=True)))
        plain_results += coco_results(image.id, paf_oracle.decode(*maps, size))
        product_ms.append(cpu_ms(partial(decode_people, *maps, size), repeats))
        plain_ms.append(cpu_ms(partial(paf_oracle.decode, *maps, size, np.float32), repeats))
    truth = read_annotations(dataset.annotation_file)["annotations"]
    sigmas = list(coco_sigmas().values())
    return {
        "images": len(images),
        "persons": len(dataset.all_persons()),
        "product_ms": float(np.mean(product_ms)),
        "product_slowest_ms": max(product_ms),
        "plain_ms": float(np.mean(plain_ms)),
        "ratio": float(np.mean(plain_ms) / np.mean(product_ms)),
        "product_ap": coco_stats(truth, product_results, joints=range(17), sigmas=sigmas).ap,
        "plain_ap": coco_stats(truth, plain_results, joints=range(17), sigmas=sigmas).ap,
    }


def measure_crowd(count: int, repeats: int) -> dict[str, Any]:
    from hpe_tasks.pose.codecs.part_affinity import decode_people
    from support import paf_oracle
    from support.paf_scenes import crowd, ideal_maps

    size = (640, 480)
    random = np.random.default_rng(count)
    heatmaps, pafs = ideal_maps(crowd(random, count, size), size)
    heatmaps += random.normal(0, 0.01, heatmaps.shape).astype(np.float32)
    pafs += random.normal(0, 0.01, pafs.shape).astype(np.float32)
    product = cpu_ms(lambda: decode_people(heatmaps, pafs, size), 3 * repeats)
    plain = cpu_ms(lambda: paf_oracle.decode(heatmaps, pafs, size, np.float32), repeats)
    found = len(decode_people(heatmaps, pafs, size))
    return {"people": count, "found": found, "product_ms": product, "plain_ms": plain, "ratio": plain / product}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds coco-mini/")
    parser.add_argument("--split", default="val2017")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--people", type=int, nargs="+", default=[2, 5, 10, 20, 30])
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    arguments = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ONE_CORE.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ONE_CORE})
    import cv2

    cv2.setNumThreads(1)
    sys.path.insert(0, TESTS)
    split = measure_split(arguments.data / "coco-mini", arguments.split, arguments.repeats)
    crowds = [measure_crowd(count, arguments.repeats) for count in arguments.people]
    if arguments.json:
        print(json.dumps({"split": split, "crowds": crowds}, indent=2))
        return
    print(f"Ideal maps of {arguments.split}: {split['images']} images with {split['persons']} people, one core\n")
    print("| decoder | ms per image | AP |")
    print("|---|---|---|")
    slowest = f"(slowest {split['product_slowest_ms']:.2f})"
    print(f"| product | {split['product_ms']:.2f} {slowest} | {split['product_ap']:.4f} |")
    print(f"| plain | {split['plain_ms']:.1f} | {split['plain_ap']:.4f} |")
    print(f"| ratio | {split['ratio']:.0f}× | |\n")
    print("| people in 640×480 | found | product, ms | plain, ms | ratio |")
    print("|---|---|---|---|---|")
    for row in crowds:
        times = f"{row['product_ms']:.2f} | {row['plain_ms']:.0f} | {row['ratio']:.0f}×"
        print(f"| {row['people']} | {row['found']} | {times} |")


if __name__ == "__main__":
    main()
