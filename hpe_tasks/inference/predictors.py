"""Networks as functions, whatever runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.run import ModelConfig
from hpe_tasks.errors import CheckpointError
from hpe_tasks.onnx_runtime.session import onnx_predictor

__all__ = ["Predict", "check_maps", "fp32_predictor", "onnx_predictor"]

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A network: normalized images N×3×H×W float32 → maps N×C×h×w float32.

With codec `heatmap`, C counts the joints. With codec `paf` it is 57: the 38 channels of the part-affinity fields, then
the 19 heatmaps.
"""

_SHOWN = 5


def fp32_predictor(config: ModelConfig, checkpoint: Path, device: str) -> Predict:
    """Load a checkpoint as it came and run it in float32.

    Args:
        config: The architecture; `onnx` runs the file in onnxruntime on the CPU, whatever the device.
        checkpoint: Weights, or the ONNX file.
        device: "cpu" or "cuda".

    Raises:
        CheckpointError: The file cannot be read or does not fit the architecture.
    """
    if config.network.from_file:
        return onnx_predictor(checkpoint, config)

    from hpe_tasks.models import build_model
    from hpe_tasks.models.checkpoint import load_checkpoint
    from hpe_tasks.models.full_precision import as_function

    network = build_model(config)
    load_checkpoint(network, checkpoint)
    return as_function(network.to(device).eval(), device)


def check_maps(maps: NDArray[np.float32], files: Sequence[str], channels: int, what: str) -> None:
    """Raise CheckpointError unless a network's output is N×channels×h×w and finite.

    Args:
        maps: The output.
        files: N names: of the file that each of the network's inputs came from.
        channels: How many it must give for each.
        what: What these channels are, in words.
    """
    if maps.ndim != 4 or maps.shape[:2] != (len(files), channels):
        raise CheckpointError(
            f"The network's output has the shape {maps.shape}; {what} have ({len(files)}, {channels}, height, width).",
            hint="Set model.skeleton or model.joint_names to the joints that the network predicts, "
            "and model.codec, model.output_layout and model.output_name to what its output is.",
        )
    broken = list(dict.fromkeys(file for file, one in zip(files, maps, strict=True) if not np.isfinite(one).all()))
    if broken:
        shown = ", ".join(broken[:_SHOWN]) + (", …" if len(broken) > _SHOWN else "")
        raise CheckpointError(
            f"The network's maps of {shown} hold NaN or infinite values.",
            hint="The weights are broken, or the input's normalization (model.mean, model.std) is not the network's.",
        )
