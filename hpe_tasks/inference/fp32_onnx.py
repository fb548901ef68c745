"""What runs a checkpoint before it is quantized: torch, or on a CPU onnxruntime, which is compared with torch first."""

from __future__ import annotations

import logging
import shutil
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import Fp32Runtime
from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.errors import CheckpointError
from hpe_tasks.inference.predictors import Predict, fp32_predictor
from hpe_tasks.models.interface import input_sizes
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.storage.files import digest_of, sha256_file
from hpe_tasks.storage.folders import hold, make_folder
from hpe_tasks.storage.private import make_private_folder

LARGEST_DIFFERENCE = 1e-5
"""Of the outputs, as a share of the largest of them."""

_IMAGES = 2

log = logging.getLogger(__name__)


def measured_fp32(
    config: ModelConfig, checkpoint: Path, device: str, runtime: Fp32Runtime, *, cache: Path | None = None
) -> Predict:
    """A checkpoint as it is measured.

    Args:
        config: The architecture.
        checkpoint: Weights, or the ONNX file.
        device: Torch's name of the device that is at hand.
        runtime: What is to run it on a CPU; on other devices torch does.
        cache: As of `fp32_onnx_predictor`.

    Raises:
        CheckpointError: The file cannot be read or does not fit the architecture.
    """
    if device == "cpu" and runtime == "onnxruntime":
        return fp32_onnx_predictor(config, checkpoint, cache=cache)
    return fp32_predictor(config, checkpoint, device)


def fp32_onnx_predictor(config: ModelConfig, checkpoint: Path, *, cache: Path | None = None) -> Predict:
    """Load a checkpoint, write it as a float32 ONNX file and run that in onnxruntime on the CPU.

    Both are shown the same drawn images first. Where the file cannot be written, or differs from the network in torch
    by more than `LARGEST_DIFFERENCE`, torch runs it all the same, and the log says so. The images do not depend on what
    is measured, so that all parts of a measurement are run by one of the two.

    Args:
        config: The architecture; `onnx` runs the file itself.
        checkpoint: Weights, or the ONNX file.
        cache: Folder of this machine that keeps a file that was found to be equal, so that only the first part of a
            measurement on a machine takes the time for it; none is kept without.

    Raises:
        CheckpointError: The file cannot be read or does not fit the architecture.
    """
    if config.network.from_file:
        return fp32_predictor(config, checkpoint, "cpu")
    kept = None if cache is None else _kept(cache / "fp32", config, checkpoint)
    if kept is not None and (file := _intact(kept)) is not None:
        log.info("FP32 is measured in onnxruntime, whose outputs were compared with torch's on this machine before.")
        return onnx_predictor(file, config)
    in_torch = fp32_predictor(config, checkpoint, "cpu")
    from hpe_tasks.models.fp32_onnx import export_fp32

    try:
        with TemporaryDirectory(prefix="hpe-fp32-") as folder:
            written = export_fp32(config, checkpoint, Path(folder) / "fp32.onnx")
            in_onnxruntime = onnx_predictor(written, config)
            difference = _largest_difference(in_torch, in_onnxruntime, config)
            if kept is not None and difference <= LARGEST_DIFFERENCE:
                _keep(kept, written)
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


def _kept(folder: Path, config: ModelConfig, checkpoint: Path) -> Path:
    """Where a file is kept, by all that it and its comparison depend on; held from now on."""
    network = config.model_dump(mode="json", exclude={"checkpoint", "checkpoint_sha256"})
    versions = [version(name) for name in ("torch", "onnxruntime")]
    make_private_folder(folder, folder)
    kept = folder / digest_of([network, sha256_file(checkpoint), versions, cpu_features(), LARGEST_DIFFERENCE])[:32]
    hold(kept)
    return kept


def _keep(folder: Path, file: Path) -> None:
    def fill(making: Path) -> None:
        shutil.copyfile(file, making / f"{sha256_file(file)}.onnx")

    make_folder(folder, fill)


def _intact(folder: Path) -> Path | None:
    """The file that is kept in a folder, which bears its digest for a name; a folder without it is dropped."""
    if not folder.is_dir():
        return None
    for file in folder.glob("*.onnx"):
        if sha256_file(file) == file.stem:
            return file
    log.warning("%s is damaged, and made again", folder)
    shutil.rmtree(folder, ignore_errors=True)
    return None


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
