"""Measures the memory that an evaluation takes, by the number of images.

    python benchmarks/evaluation_memory.py [--images 200 2000] [--input-size W H] [--json]

Every size is measured in a process of its own: pose_mobilenet with random weights on the CPU, 640×480 pictures of the
project's sample, of which a hundred are drawn and the others are links to them under names and ids of their own.
"Before" is the process with the network and the annotations loaded; the other columns are what the evaluation adds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil

DRAWN = 100
SAMPLING_INTERVAL_S = 0.05
MB = 1e6


def write_dataset(folder: Path, num_images: int) -> None:
    """A split `val` of this many images, most of them links."""
    from hpe_tasks.data.sample import SampleSpec, make_sample

    make_sample(folder, SampleSpec(train=1, calibration=1, val=DRAWN, width=640, height=480), splits=("val",))
    annotations = folder / "annotations" / "person_keypoints_val.json"
    images = folder / "images" / "val"
    drawn = json.loads(annotations.read_text())
    persons: dict[int, list[dict[str, Any]]] = {}
    for annotation in drawn["annotations"]:
        persons.setdefault(annotation["image_id"], []).append(annotation)
    records: list[dict[str, Any]] = []
    repeated: list[dict[str, Any]] = []
    for number in range(num_images):
        source = drawn["images"][number % len(drawn["images"])]
        name = f"linked_{number:06d}{Path(source['file_name']).suffix}"
        (images / name).hardlink_to(images / source["file_name"])
        records.append({**source, "id": number + 1, "file_name": name})
        for annotation in persons.get(source["id"], []):
            repeated.append({**annotation, "id": len(repeated) + 1, "image_id": number + 1})
    annotations.write_text(json.dumps({**drawn, "images": records, "annotations": repeated}))


class ResidentMemory:
    """Samples this process's resident memory until it is left."""

    def __init__(self) -> None:
        self.samples: list[int] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._done.wait(SAMPLING_INTERVAL_S):
            self.samples.append(process.memory_info().rss)

    def __enter__(self) -> ResidentMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def measure(folder: Path, input_size: tuple[int, int], threads: int) -> dict[str, float]:
    import torch

    from hpe_tasks.config.model import ModelConfig
    from hpe_tasks.config.run import EvaluationConfig
    from hpe_tasks.data.coco import load_coco
    from hpe_tasks.evaluation import evaluate
    from hpe_tasks.inference import fp32_predictor
    from hpe_tasks.models import build_model
    from hpe_tasks.records.base import Artifact

    torch.set_num_threads(threads)
    weights = folder / "network.pth"
    config = ModelConfig(checkpoint=str(weights), input_width=input_size[0], input_height=input_size[1])
    torch.manual_seed(0)
    torch.save(build_model(config).state_dict(), weights)
    network = fp32_predictor(config, weights, "cpu")
    # Reading the annotations takes memory for each person; what is measured is whether images do.
    dataset = load_coco(folder, "val")
    before = psutil.Process().memory_info().rss
    with ResidentMemory() as memory:
        report = evaluate(
            dataset,
            network,
            config,
            EvaluationConfig(),
            runtime="fp32",
            dataset_digest="0" * 64,
            seed=0,
            predictions_file=folder / "predictions.json",
            artifact=lambda path: Artifact(uri=path.as_uri(), sha256="0" * 64, size_bytes=path.stat().st_size),
        )
    half = memory.samples[len(memory.samples) // 2 :]
    return {
        "images": report.fingerprint.num_images,
        "persons": report.fingerprint.num_persons,
        "before_mb": before / MB,
        "steady_mb": (statistics.median(half) - before) / MB,
        "peak_mb": (max(memory.samples) - before) / MB,
        "images_per_second": report.images_per_second,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--input-size", type=int, nargs=2, default=(192, 256), metavar=("W", "H"))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the data set: measure in this process
    arguments = parser.parse_args()
    width, height = arguments.input_size
    if arguments.folder is not None:
        print(json.dumps(measure(arguments.folder, (width, height), arguments.threads)))
        return
    rows = []
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            write_dataset(Path(folder), count)
            command = [sys.executable, __file__, "--folder", folder, "--threads", str(arguments.threads)]
            command += ["--input-size", str(width), str(height)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print("| images | persons | RSS before, MB | steady, + MB | peak, + MB | images/s |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        megabytes = " | ".join(f"{row[key]:.0f}" for key in ("before_mb", "steady_mb", "peak_mb"))
        print(f"| {row['images']} | {row['persons']} | {megabytes} | {row['images_per_second']:.1f} |")


if __name__ == "__main__":
    main()
