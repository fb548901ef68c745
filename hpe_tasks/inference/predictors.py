"""Networks as functions, whatever runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import CheckpointError
from hpe_tasks.models.interface import output_shapes
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.pose.codecs.codec import fits, shape_text

__all__ = ["Predict", "check_outputs", "fp32_predictor", "onnx_predictor"]

Predict = Callable[[NDArray[np.float32]], Arrays]
"""A network: normalized images N×3×H×W float32 → the arrays that its codec reads, by name, float32."""

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
    return as_function(network.to(device).eval(), tuple(output_shapes(config)), device)


def check_outputs(outputs: Mapping[str, NDArray[np.float32]], files: Sequence[str], config: ModelConfig) -> None:
    """Raise CheckpointError unless a network gives the arrays that its codec reads, for each input, and all finite.

    Args:
        outputs: What it gave.
        files: N names: of the file that each of the network's inputs came from.
        config: Codec, joints and input size.
    """
    broken: dict[str, None] = {}
    for name, wanted in output_shapes(config).items():
        shape = (len(files), *wanted[1:])
        if name not in outputs or not fits(outputs[name].shape, shape):
            gave = f"has the shape {shape_text(outputs[name].shape)}" if name in outputs else "is missing"
            raise CheckpointError(
                f"The network's output {name!r} {gave}; {name} of {len(files)} inputs with {len(config.joints.joints)} "
                f"joints ({config.joints.name}) have {shape_text(shape)}.",
                hint="Set model.skeleton or model.joint_names to the joints that the network predicts, "
                "and model.codec, model.output_layout and model.output_name to what its output is.",
            )
        broken |= dict.fromkeys(
            file for file, one in zip(files, outputs[name], strict=True) if not np.isfinite(one).all()
        )
    codec = CODECS[config.codec]
    if fault := codec.fault({name: array.shape for name, array in outputs.items()}, config.input_size):
        raise CheckpointError(f"Of the network's outputs, {fault}.", hint=codec.settings_hint)
    if broken:
        shown = ", ".join(list(broken)[:_SHOWN]) + (", …" if len(broken) > _SHOWN else "")
        raise CheckpointError(
            f"The network's outputs of {shown} hold NaN or infinite values.",
            hint="The weights are broken, or the input's normalization (model.mean, model.std) is not the network's.",
        )
