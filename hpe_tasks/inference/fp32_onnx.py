"""What runs a checkpoint before it is quantized: torch, or on a CPU onnxruntime, which is compared with torch first."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import Fp32Runtime
from hpe_tasks.errors import CheckpointError
from hpe_tasks.inference.predictors import Predict, fp32_predictor
from hpe_tasks.models.interface import input_sizes
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.pose.codecs.arrays import Arrays

LARGEST_DIFFERENCE = 1e-5
"""Of the outputs, as a share of the largest of them."""

_IMAGES = 2

log = logging.getLogger(__name__)


def measured_fp32(config: ModelConfig, checkpoint: Path, device: str, runtime: Fp32Runtime) -> Predict:
    """A checkpoint as it is measured.

    Args:
        config: The architecture.
        checkpoint: Weights, or the ONNX file.
        device: Torch's name of the device that is at hand.
        runtime: What is to run it on a CPU; on other devices torch does.

    Raises:
        CheckpointError: The file cannot be read or does not fit the architecture.
    """
    if device == "cpu" and runtime == "onnxruntime":
        return fp32_onnx_predictor(config, checkpoint)
    return fp32_predictor(config, checkpoint, device)


def fp32_onnx_predictor(config: ModelConfig, checkpoint: Path) -> Predict:
    """Load a checkpoint, write it as a float32 ONNX file and run that in onnxruntime on the CPU.

    Both are shown the same drawn images first. Where the file cannot be written, or differs from the network in torch
    by more than `LARGEST_DIFFERENCE`, torch runs it all the same, and the log says so. The images do not depend on what
    is measured, so that all parts of a measurement are run by one of the two.

    Args:
        config: The architecture; `onnx` runs the file itself.
        checkpoint: Weights, or the ONNX file.

    Raises:
        CheckpointError: The file cannot be read or does not fit the architecture.
    """
    in_torch = fp32_predictor(config, checkpoint, "cpu")
    if config.network.from_file:
        return in_torch
    from hpe_tasks.models.fp32_onnx import export_fp32

    try:
        with TemporaryDirectory(prefix="hpe-fp32-") as folder:
            in_onnxruntime = onnx_predictor(export_fp32(config, checkpoint, Path(folder) / "fp32.onnx"), config)
        difference = _largest_difference(in_torch, in_onnxruntime, config)
    except CheckpointError as error:
        log.warning("FP32 is measured in torch, not in onnxruntime: %s", error.message)
        return in_torch
    if not difference <= LARGEST_DIFFERENCE:
        log.warning(
            "FP32 is measured in torch: in onnxruntime its outputs differ by %.1e of the largest, where %.0e may.",
            difference, LARGEST_DIFFERENCE,
        )  # fmt: skip
        return in_torch
    log.info("FP32 is measured in onnxruntime, whose outputs differ from torch's by %.1e of the largest.", difference)
    return in_onnxruntime


def _largest_difference(one: Predict, other: Predict, config: ModelConfig) -> float:
    """How far apart two networks are on drawn images of each size, as a share of the largest value; NaN is kept."""
    differences = []
    for width, height in input_sizes(config):
        images = np.random.default_rng(0).standard_normal((_IMAGES, 3, height, width)).astype(np.float32)
        expected, found = one(images), other(images)
        differences += [_share(expected, found, name) for name in expected]
    return float(np.max(differences))


def _share(expected: Arrays, found: Arrays, name: str) -> float:
    if name not in found or found[name].shape != expected[name].shape:
        return float("inf")
    return float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max())
