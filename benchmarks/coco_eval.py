"""Measures COCO's figures for poses: the product against pycocotools, which is the reference.

    python benchmarks/coco_eval.py [--data FOLDER] [--images 40504] [--detections 100000] [--json]

Results are drawn around annotated persons, several around some of them, and elsewhere; many have equal scores. The
persons are those of `coco-mini/` in FOLDER, and drawn ones on as many images as COCO's val2014 has: crowds, persons
without labelled joints and images without persons among them. Every evaluation is measured in a process of its own,
with annotations and results in memory: processor time, and by how much the memory in use then grows at most. All
numbers must agree to 1e-9. A report breaks the AP down by groups of joints and by joints: pycocotools, which starts
anew for each, is measured with three of these parts alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCE = 1e-9
JOINTS = 17
FEW_PARTS = ("head", "wrists", "nose")
Rows = list[dict[str, Any]]


def drawn_persons(rng: np.random.Generator, num_images: int) -> tuple[Rows, list[int]]:
    """Annotations, and the ids of all images: every other one has persons, up to 14."""
    image_ids = np.sort(rng.choice(600_000, num_images, replace=False))
    counts = np.where(rng.random(num_images) < 0.53, np.minimum(rng.geometric(0.25, num_images), 14), 0)
    images = np.repeat(image_ids, counts)
    heights = np.exp(rng.uniform(np.log(20), np.log(450), len(images)))
    sizes = np.stack([heights * rng.uniform(0.3, 0.9, len(images)), heights], axis=1)
    corners = rng.uniform(0, 1, (len(images), 2)) * np.maximum((640, 480) - sizes, 1)
    areas = sizes.prod(axis=1) * rng.uniform(0.4, 0.8, len(images))
    kind = rng.random(len(images))
    visibility = rng.choice([0, 1, 2], (len(images), JOINTS), p=[0.3, 0.1, 0.6]) * (kind > 0.4)[:, None]
    points = np.round(corners[:, None] + rng.uniform(0, 1, (len(images), JOINTS, 2)) * sizes[:, None])
    keypoints = np.concatenate([points * (visibility > 0)[..., None], visibility[..., None]], axis=2).astype(int)
    persons = [
        {
            "id": number + 1,
            "image_id": int(images[number]),
            "category_id": 1,
            "keypoints": keypoints[number].ravel().tolist(),
            "num_keypoints": int((visibility[number] > 0).sum()),
            "bbox": [*corners[number].tolist(), *sizes[number].tolist()],
            "area": float(areas[number]),
            "iscrowd": int(kind[number] < 0.015),
        }
        for number in range(len(images))
    ]
    return persons, image_ids.tolist()


def drawn_results(rng: np.random.Generator, persons: Rows, image_ids: list[int], count: int) -> Rows:
    """Eight in ten around a labelled person, better or worse; the others of the shape of one, on any image."""
    from hpe_tasks.metrics.oks import coco_sigmas

    labelled = [row for row in persons if row["num_keypoints"]]
    chosen = rng.integers(len(labelled), size=count)
    truth = np.array([row["keypoints"] for row in labelled], dtype=np.float64).reshape(-1, JOINTS, 3)[chosen]
    boxes = np.array([row["bbox"] for row in labelled])[chosen, None]
    inside = boxes[..., :2] + rng.uniform(0, 1, (count, JOINTS, 2)) * boxes[..., 2:]
    points = np.where(truth[..., 2:] > 0, truth[..., :2], inside)
    scale = np.sqrt([row["area"] for row in labelled])[chosen] * rng.choice([0.4, 1.0, 2.5], count)
    spread = scale[:, None, None] * np.array(list(coco_sigmas().values()))[:, None]
    points = np.round(points + rng.normal(size=points.shape) * spread, 1)
    missing = (rng.random((count, JOINTS)) < 0.3) & (rng.random((count, 1)) < 0.2)
    keypoints = np.concatenate([points, np.ones((count, JOINTS, 1))], axis=2) * ~missing[..., None]
    elsewhere = rng.random(count) < 0.2
    any_image = rng.integers(len(image_ids), size=count)
    scores, digits = rng.beta(2, 2, count), rng.choice([2, 3, 8], count)
    return [
        {
            "image_id": image_ids[any_image[row]] if elsewhere[row] else labelled[chosen[row]]["image_id"],
            "category_id": 1,
            "keypoints": keypoints[row].ravel().tolist(),
            "score": round(float(scores[row]), int(digits[row])),
        }
        for row in range(count)
    ]


def report_parts() -> dict[str, tuple[list[int], list[float]]]:
    from hpe_tasks.datasets import COCO
    from hpe_tasks.metrics.oks import coco_sigmas
    from hpe_tasks.pose.skeletons import COCO17

    sigmas = coco_sigmas()
    parts = {**COCO.groups, **{joint: (joint,) for joint in COCO17.joints}}
    return {
        name: ([COCO17.joints.index(joint) for joint in joints], [sigmas[joint] for joint in joints])
        for name, joints in parts.items()
    }


def pycocotools_stats(persons: Rows, results: Rows, sigmas: list[float]) -> list[float | None]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCO()
        expected.dataset = {
            "images": [{"id": i} for i in sorted({row["image_id"] for row in (*persons, *results)})],
            "annotations": persons,
            "categories": [{"id": 1, "name": "person"}],
        }
        expected.createIndex()
        evaluation = COCOeval(expected, expected.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [None if value < 0 else value for value in evaluation.stats.tolist()]


def restricted(row: dict[str, Any], joints: list[int]) -> dict[str, Any]:
    keypoints = np.reshape(row["keypoints"], (JOINTS, 3))[joints]
    return row | {"keypoints": keypoints.ravel().tolist(), "num_keypoints": int((keypoints[:, 2] > 0).sum())}


def stats_by_pycocotools(persons: Rows, results: Rows) -> list[float | None]:
    from hpe_tasks.metrics.oks import coco_sigmas

    return pycocotools_stats(persons, results, list(coco_sigmas().values()))


def stats_by_product(persons: Rows, results: Rows) -> list[float | None]:
    from hpe_tasks.metrics.oks import coco_sigmas, coco_stats

    sigmas = list(coco_sigmas().values())
    return list(coco_stats(persons, results, joints=range(JOINTS), sigmas=sigmas).model_dump().values())


def breakdown_by_pycocotools(persons: Rows, results: Rows) -> list[float | None]:
    parts = report_parts()
    return [
        pycocotools_stats(
            [restricted(row, joints) for row in persons], [restricted(row, joints) for row in results], sigmas
        )[0]
        for joints, sigmas in (parts[name] for name in FEW_PARTS)
    ]


def breakdown_by_product(persons: Rows, results: Rows, names: Sequence[str] = FEW_PARTS) -> list[float | None]:
    from hpe_tasks.metrics.oks import coco_breakdown

    parts = report_parts()
    return list(coco_breakdown(persons, results, {name: parts[name] for name in names}).values())


def whole_breakdown_by_product(persons: Rows, results: Rows) -> list[float | None]:
    return breakdown_by_product(persons, results, list(report_parts()))


# By the product and by the reference.
Method = Callable[[Rows, Rows], list[float | None]]
FIGURES: dict[str, dict[str, Method]] = {
    "ten numbers": {"product": stats_by_product, "reference": stats_by_pycocotools},
    "AP of 3 parts": {"product": breakdown_by_product, "reference": breakdown_by_pycocotools},
    "AP of all 24 parts": {"product": whole_breakdown_by_product},
}


def memory_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}: this benchmark needs Linux")
    return int(found[1]) * 1024


def measure(file: Path, figure: str, method: str) -> dict[str, Any]:
    """Runs in a process of its own."""
    import pycocotools.cocoeval  # noqa: F401  # Loaded before the clock starts, as the product is.

    import hpe_tasks.metrics.oks  # noqa: F401

    rows = json.loads(file.read_text())
    Path("/proc/self/clear_refs").write_text("5")  # Sets the highest resident memory back to the present one.
    before, start = memory_bytes("VmRSS"), time.process_time()
    values = FIGURES[figure][method](rows["persons"], rows["results"])
    seconds = time.process_time() - start
    return {"seconds": seconds, "memory_mb": (memory_bytes("VmHWM") - before) / 1e6, "values": values}


def compare(persons: Rows, results: Rows, num_images: int) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        file.write_text(json.dumps({"persons": persons, "results": results}))
        for figure, methods in FIGURES.items():
            row: dict[str, Any] = {
                "figure": figure,
                "images": num_images,
                "persons": len(persons),
                "results": len(results),
            }
            for method in methods:
                done = subprocess.run(
                    [sys.executable, __file__, "--measure", str(file), figure, method],
                    check=True,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
                row[method] = json.loads(done.stdout)
            if "reference" in row:
                row["largest_difference"] = largest_difference(row["reference"]["values"], row["product"]["values"])
            rows.append(row)
    return rows


def largest_difference(expected: list[float | None], got: list[float | None]) -> float:
    """Infinite where only one has a number."""
    return max(
        0.0 if a is None and b is None else float("inf") if a is None or b is None else abs(a - b)
        for a, b in zip(expected, got, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds coco-mini/")
    parser.add_argument("--images", type=int, default=40_504)
    parser.add_argument("--detections", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        file, figure, method = arguments.measure
        print(json.dumps(measure(Path(file), figure, method)))
        return
    rng = np.random.default_rng(arguments.seed)
    rows = []
    if arguments.data:
        for file in sorted((arguments.data / "coco-mini" / "annotations").glob("*.json")):
            annotated = json.loads(file.read_text())
            image_ids = [image["id"] for image in annotated["images"]]
            persons = annotated["annotations"]
            rows += compare(persons, drawn_results(rng, persons, image_ids, 2 * len(persons)), len(image_ids))
    persons, image_ids = drawn_persons(rng, arguments.images)
    rows += compare(persons, drawn_results(rng, persons, image_ids, arguments.detections), len(image_ids))
    differences = [row["largest_difference"] for row in rows if "reference" in row]
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print_table(rows)
        print(f"\nLargest difference: {max(differences):.1g}")
    if max(differences) > TOLERANCE:
        sys.exit("product and pycocotools differ")


def print_table(rows: list[dict[str, Any]]) -> None:
    print("| images | annotations | results | figure | pycocotools, s | product, s | ratio | + MB | + MB | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [*(f"{row[key]:,}" for key in ("images", "persons", "results")), row["figure"]]
        for key, form in (("seconds", "{:.2f}"), ("memory_mb", "{:.0f}")):
            product = row["product"][key]
            reference = row["reference"][key] if "reference" in row else None
            cells.append("" if reference is None else form.format(reference))
            cells += [form.format(product), "" if reference is None else f"{reference / product:.1f}×"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
