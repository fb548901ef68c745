"""This machine: its disk, and what its processor means for the run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.cpu import VNNI, cpu_features, processor_name
from hpe_tasks.errors import StorageError
from hpe_tasks.preflight.findings import Finding, gigabytes

CHECKPOINT_COPIES = 5
"""Files of about the checkpoint's size that a run keeps in its workspace: the checkpoint, the network as it was
quantized, what is being written at a time, and for the int8 file a quarter each in store, run and registry."""

OTHER_FILES_BYTES = 200_000_000
"""Predictions, Data Docs, report and the Lambda package with its build folder."""

_SPARE_BYTES = 1_000_000_000

LONG_CALIBRATION_S = 1800.0


def check_disk(folders: Mapping[Path, int]) -> Finding:
    """Compare what the run will write with what is free.

    Args:
        folders: Bytes that will be written below each folder; those of one file system are added up. A folder need
            not exist yet.

    Raises:
        StorageError: A disk has less room than is needed.
    """
    by_disk: dict[int, tuple[Path, int]] = {}
    for folder, needed in folders.items():
        place = _existing(folder)
        disk = place.stat().st_dev
        first, so_far = by_disk.get(disk, (place, 0))
        by_disk[disk] = (first, so_far + needed)
    said, low, full = [], False, []
    for place, needed in by_disk.values():
        free = shutil.disk_usage(place).free
        said.append(f"{place}: {gigabytes(free)} free, about {gigabytes(needed)} needed")
        low |= free < needed + _SPARE_BYTES
        if free < needed:
            full.append(said[-1])
    hint = "Free some space, or set HPE_CACHE and HPE_WORKSPACE to folders on a larger disk."
    if full:
        raise StorageError(f"The disk is too full. {'; '.join(full)}.", hint=hint)
    return Finding("; ".join(said), warning=hint if low else "")


def _existing(folder: Path) -> Path:
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())


def processor_text(name: str, features: tuple[str, ...]) -> str:
    """A processor, and what its instructions mean for int8, in one sentence."""
    machine, has = features[0], set(features[1:])
    if has & set(VNNI):
        meaning = f"int8 runs at full speed (VNNI: {', '.join(f for f in features if f in VNNI)})"
    elif has & {"avx2", "avx512bw"}:
        meaning = "no VNNI: int8 runs more slowly than on newer processors"
    elif machine in {"aarch64", "arm64"}:
        dot = "with" if "i8mm" in has else "without"
        meaning = f"arm64 {dot} int8 matrix instructions"
    else:
        meaning = "neither AVX2 nor VNNI: int8 runs slowly"
    return f"{name}, {os.cpu_count()} CPUs: {meaning}"


def check_processor(config: RunConfig, device: str, forward_s: float | None) -> Finding:
    """Say what the processor, and the GPU or its absence, mean for the run.

    Args:
        config: Recipe and architecture.
        device: "cpu" or "cuda": where calibration would run.
        forward_s: Seconds that the float network takes here for one image; None where it was not measured.
    """
    features = cpu_features()
    text = processor_text(processor_name(), features)
    if not set(VNNI) & set(features):
        same = clips_nowhere(config)
        text += ", and computes the same" if same else ", and full 8-bit weights may clip here: figures are this one's"
    if device != "cpu":
        return Finding(f"{text}. A GPU calibrates.")
    if forward_s is None:
        return Finding(f"{text}. No GPU: the CPU calibrates.")
    seconds = calibration_s(config, forward_s)
    shown = f"{text}. No GPU: calibrating on the CPU takes about {_duration(seconds)}."
    if seconds < LONG_CALIBRATION_S:
        return Finding(shown)
    advice = f"Use a machine with a GPU, lower recipe.calibration_images (now {config.recipe.calibration_images})"
    if config.recipe.scheme == "tf_enhanced":
        return Finding(shown, warning=f"{advice}, or set recipe.scheme=min_max.")
    return Finding(shown, warning=f"{advice.replace(', lower', ', or lower')}.")


def clips_nowhere(config: RunConfig) -> bool:
    """Whether the file will compute the same on every processor, by the recipe; export_onnx proves it."""
    return config.recipe.keeps_sums_in_range or (config.recipe.param_bw, config.recipe.activation_bw) != (8, 8)


FORWARDS_PER_IMAGE = {"min_max": 3.0, "tf_enhanced": 6.0, "percentile": 8.0, "mse": 8.0}
"""Calibration of one image on the CPU, in forward passes of the float network: between the figures of
benchmarks/calibration.py, from which networks differ by a factor of two either way."""

FORWARDS_PER_STEP = 24.0
"""One step of AdaRound in all layers: eight images forward, and twice that back."""

FORWARDS_OF_SEQ_MSE = 6000.0
"""About 64 images before each of some 50 layers, and through each of them twice for every range that is tried."""

FORWARDS_OF_BIAS_CORRECTION = 3000.0
"""About 32 images of a simulation, which takes twice as long, before each of some 50 layers."""

FORWARDS_OF_LEARNING = 15.0
"""One image in a step of distillation: teacher, simulation forward and back; two networks took 12 and 19."""

FIXED_S = 20.0
"""What calibration takes beyond its images: imports, building the simulation, choosing ranges, writing files."""


def calibration_s(config: RunConfig, forward_s: float) -> float:
    """Seconds that calibration will take on this CPU, roughly."""
    recipe = config.recipe
    forwards = recipe.calibration_images * FORWARDS_PER_IMAGE[recipe.scheme]
    if recipe.rounding == "adaround":
        forwards += recipe.adaround_iterations * FORWARDS_PER_STEP
    elif recipe.rounding == "seq_mse":
        forwards += FORWARDS_OF_SEQ_MSE
    if recipe.bias_correction:
        forwards += FORWARDS_OF_BIAS_CORRECTION
    forwards += recipe.distillation_steps * recipe.distillation_batch * FORWARDS_OF_LEARNING
    return FIXED_S + forwards * forward_s


def forward_seconds(config: RunConfig, checkpoint: Path) -> float:
    """Seconds of one image in the float network on this CPU; the second of two batches is timed."""
    import numpy as np

    from hpe_tasks.inference import fp32_predictor

    predict = fp32_predictor(config.model, checkpoint, "cpu")
    width, height = config.model.input_size
    images = np.zeros((min(4, config.evaluation.batch_size), 3, height, width), np.float32)
    predict(images)
    began = time.perf_counter()
    predict(images)
    return (time.perf_counter() - began) / len(images)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
