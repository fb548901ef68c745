"""Faults of the checkpoint, or of what is said of it: it is not the network that the configuration describes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.errors import BelowFloorError
from hpe_tasks.pipeline import steps
from hpe_tasks.selftest.bench import Bench, checkpoint_of
from hpe_tasks.selftest.fault import Ruling, refusal

Tensors = dict[str, NDArray[Any]]

OUTPUT_LAYER = "heatmaps"
_FIRST_LAYER = "features.0.weight"


def swapped_sides(bench: Bench) -> Ruling:
    """The channels of left and right joints are exchanged."""

    def swap(tensors: Tensors) -> None:
        order = np.arange(len(bench.config.model.joints.joints))
        for left, right in bench.config.model.joints.flip_pairs:
            order[[left, right]] = right, left
        for part in ("weight", "bias"):
            tensors[f"{OUTPUT_LAYER}.{part}"] = tensors[f"{OUTPUT_LAYER}.{part}"][order]

    return _below_floor(bench, changed_checkpoint(bench, swap), "left and right joints are swapped")


def bgr_checkpoint(bench: Bench) -> Ruling:
    """The network was trained on blue, green, red."""

    def turn(tensors: Tensors) -> None:
        tensors[_FIRST_LAYER] = np.ascontiguousarray(tensors[_FIRST_LAYER][:, ::-1])

    return _below_floor(bench, changed_checkpoint(bench, turn), "the image is BGR")


def wrong_normalization(bench: Bench) -> Ruling:
    """The network is shown values from 0 to 255, and was trained on others."""
    settings = {"model.mean": [0.0, 0.0, 0.0], "model.std": [1 / 255] * 3}
    return _below_floor(bench, checkpoint_of(bench), r"ImageNet's mean and std are used", settings)


def changed_checkpoint(bench: Bench, change: Callable[[Tensors], None]) -> Path:
    """The healthy checkpoint with some of its tensors changed."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(checkpoint_of(bench))
    change(tensors)
    file = bench.new_folder("checkpoint") / "changed.safetensors"
    save_file(tensors, file)
    return file


def _below_floor(bench: Bench, checkpoint: Path, says: str, settings: Mapping[str, Any] | None = None) -> Ruling:
    """Whether the floor refuses a checkpoint, and the diagnosis says what is wrong with it."""
    run = bench.new_run("checkpoint", {"model.checkpoint": str(checkpoint), **(settings or {})})
    bench.leave_healthy(run, steps.fetch_dataset, steps.validate_dataset)
    steps.fetch_checkpoint(run)
    steps.evaluate_fp32(run)
    return refusal(lambda: steps.check_fp32(run), BelowFloorError, f"gate.min_ap.* when {says}")
