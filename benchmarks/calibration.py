"""Measures how long calibration takes on this machine's CPU, in forward passes of the float network.

    python benchmarks/calibration.py [--onnx FILE.onnx SIDE] [--images 32] [--json]

Networks with random weights, random images; the preflight tells with these ratios how long a run's calibration will
take on a machine without a GPU (`FORWARDS_PER_IMAGE` in hpe_tasks/preflight/machine.py). What an
image costs is taken from the second half of the images; what the whole took beyond that is the fixed part.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.cpu import cpu_features, processor_name
from hpe_tasks.preflight.machine import forward_seconds
from hpe_tasks.quantization import quantize_model

Scheme = Literal["min_max", "tf_enhanced", "percentile", "mse"]

BATCH = 4
SCHEMES: tuple[Scheme, ...] = ("min_max", "tf_enhanced", "percentile", "mse")
NETWORKS: dict[str, dict[str, Any]] = {
    "pose_mobilenet": {"architecture": "pose_mobilenet"},
    "pose_resnet_50": {"architecture": "pose_resnet_50"},
    "aimet_pose": {"architecture": "aimet_pose", "codec": "paf", "input_width": 496, "input_height": 384},
}


def batches(config: ModelConfig, images: int, stamps: list[float]) -> Iterator[np.ndarray]:
    """Random images; notes when the first half is through, and when all are asked for."""
    random = np.random.default_rng(0)
    width, height = config.input_size
    for number in range(images // BATCH):
        if number == images // BATCH // 2:
            stamps.append(time.perf_counter())
        yield random.normal(size=(BATCH, 3, height, width)).astype(np.float32)
    stamps.append(time.perf_counter())


def random_checkpoint(config: ModelConfig, folder: Path) -> Path:
    from safetensors.torch import save_file

    from hpe_tasks.models import build_model

    file = folder / "random.safetensors"
    save_file(build_model(config).state_dict(), file)
    return file


def measure(config: ModelConfig, scheme: Scheme, images: int, checkpoint: Path | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = checkpoint or random_checkpoint(config, folder)
        recipe = QuantizationRecipe(scheme=scheme, calibration_images=images)
        dataset = {"source": "sample", "calibration_split": "a", "evaluation_split": "b"}
        run = RunConfig(model=config, dataset=dataset, recipe=recipe)
        forward_s = forward_seconds(run, checkpoint)
        stamps: list[float] = []
        out = folder / "out"
        out.mkdir()
        began = time.perf_counter()
        quantize_model(config, recipe, checkpoint, batches(config, images, stamps), out, "cpu")
        half = images // BATCH // 2 * BATCH
        total_s = time.perf_counter() - began
        image_s = (stamps[1] - stamps[0]) / (images - half)
        return {
            "forward_ms": 1000 * forward_s,
            "calibration_ms": 1000 * image_s,
            "ratio": image_s / forward_s,
            "fixed_s": total_s - images * image_s,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--onnx", nargs=2, metavar=("FILE", "SIDE"), action="append", default=[])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cases: list[tuple[str, ModelConfig, Path | None]] = [
        (name, ModelConfig.model_validate({"checkpoint": "x", **fields}), None) for name, fields in NETWORKS.items()
    ]
    for file, side in options.onnx:
        fields = {"input_width": side, "input_height": side, "output_layout": "nhwc", "skeleton": "efficientpose16"}
        config = ModelConfig(architecture="onnx", checkpoint=file, **fields)
        cases.append((Path(file).stem, config, Path(file)))
    rows: list[dict[str, Any]] = [
        {"network": name, "scheme": scheme, **measure(config, scheme, options.images, checkpoint)}
        for name, config, checkpoint in cases
        for scheme in SCHEMES
    ]
    if options.json:
        print(json.dumps({"processor": processor_name(), "features": cpu_features(), "rows": rows}, indent=1))
        return
    print(f"{processor_name()} ({', '.join(cpu_features())}), {os.cpu_count()} CPUs")
    print("| network | scheme | forward ms | calibration ms/image | in forward passes | fixed s |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            "| {network} | {scheme} | {forward_ms:.1f} | {calibration_ms:.0f} | {ratio:.1f} | {fixed_s:.0f} |".format(
                **row
            )
        )


if __name__ == "__main__":
    main()
