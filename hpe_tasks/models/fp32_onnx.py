"""The network before quantization as an ONNX file: what the exported file's speed is compared with."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import CheckpointError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.models.interface import output_shapes
from hpe_tasks.pose.codecs import CODECS

INPUT_NAME = "image"

_OPSET = 17


def export_fp32(config: ModelConfig, checkpoint: Path, out: Path) -> Path:
    """The network as a float32 ONNX file: `out`, or with architecture `onnx` the checkpoint itself.

    Names and free dimensions are those of the int8 file. Batch norms that torch leaves behind transposed convolutions
    are folded by onnxruntime when it loads the file.

    Args:
        config: The network.
        checkpoint: Its weights, or the ONNX file.
        out: The file to write where there is none yet.

    Raises:
        CheckpointError: The weights do not fit, or torch cannot write the network as ONNX.
    """
    if config.network.from_file:
        return checkpoint
    network = build_model(config)
    load_checkpoint(network, checkpoint)
    width, height = config.input_size
    try:
        with warnings.catch_warnings():
            # The exporter that keeps weights inside of the file is deprecated, and says so each time.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (torch.zeros(1, 3, height, width),),
                str(out),
                input_names=[INPUT_NAME],
                output_names=list(output_shapes(config)),
                dynamic_axes=free_axes(config),
                opset_version=_OPSET,
                dynamo=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{config.architecture} cannot be written as a float32 ONNX file, which the exported file's speed is "
            f"compared with: {str(error).partition(chr(10))[0]}",
            hint="The project's networks can: this is a fault of the network's code, or of torch's version.",
        ) from error
    return out


def free_axes(config: ModelConfig) -> dict[str, dict[int, str]]:
    """Dimensions that stay free in a file of the project's own networks, by input and output, as torch takes them."""
    free_input, free_output = {0: "batch"}, {0: "batch"}
    if CODECS[config.codec].whole_images:
        free_input |= {2: "height", 3: "width"}
        free_output |= {2: "map_height", 3: "map_width"}
    return {INPUT_NAME: free_input, **dict.fromkeys(output_shapes(config), free_output)}
