"""Post-training quantization with AIMET: one recipe, two backends.

`aimet_torch` quantizes the networks that the project builds, `aimet_onnx` any ONNX file. Both leave two files: the
float network as it was quantized (after folding and equalization) and its encodings. From these `load_quantsim`
rebuilds the very simulation that was calibrated: nothing is measured again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.records.network import Distillation, NormalForm

if TYPE_CHECKING:
    import numpy as np

    from hpe_tasks.pose.codecs.arrays import Arrays
    from hpe_tasks.quantization.distillation import Lessons
    from hpe_tasks.quantization.float_activations import Code

__all__ = [
    "QuantizedFiles",
    "best_device",
    "leave_float",
    "load_quantsim",
    "quantize_model",
    "set_codes",
    "tool_versions",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuantizedFiles:
    """What `quantize_model` wrote.

    Attributes:
        model: The float network with its calibrated quantizers (`.safetensors`), or the float graph (`.onnx`).
        encodings: AIMET's quantization encodings as JSON.
        normal_form: What became of a user's graph before it was calibrated; None where nothing was to be folded.
        distillation: How the simulation learned; None where the recipe asks for no distillation.
    """

    model: Path
    encodings: Path
    normal_form: NormalForm | None = None
    distillation: Distillation | None = None


def quantize_model(
    config: ModelConfig,
    recipe: QuantizationRecipe,
    checkpoint: Path,
    batches: Iterable[np.ndarray],
    out: Path,
    device: str,
    lessons: Lessons | None = None,
) -> QuantizedFiles:
    """Calibrate a quantization simulation of the network and store it.

    Args:
        config: The network and how images are presented to it.
        recipe: Bit widths, granularity, range estimation, folding and equalization.
        checkpoint: Weights (.pth.tar, .pth, .safetensors), or the ONNX file of architecture `onnx`.
        batches: Calibration images, normalized, N×3×H×W float32; those of whole images in either orientation.
        out: Existing folder that the two files are written to.
        device: "cpu" or "cuda".
        lessons: What the simulation learns from, where the recipe asks for distillation.

    Raises:
        CheckpointError: The checkpoint does not fit.
        ConfigError: `recipe.aimet_config` is missing or not a valid AIMET configuration.
        QuantizationError: There is no calibration image, an image has the wrong shape, AIMET cannot quantize it, or a
            distillation diverges or has nothing to learn from.
    """
    if recipe.distillation_steps and lessons is None:
        raise QuantizationError(
            f"The recipe asks for {recipe.distillation_steps} steps of distillation; there is nothing to learn from.",
            hint="Give quantize_model its lessons, or set recipe.distillation_steps to 0.",
        )
    if device == "cpu":
        log.warning("Calibrating on the CPU, several times more slowly than on a GPU.")
    if config.network.from_file:
        from hpe_tasks.quantization import onnx_backend

        return QuantizedFiles(*onnx_backend.quantize(config, recipe, checkpoint, batches, out, device, lessons))
    from hpe_tasks.quantization import torch_backend

    return QuantizedFiles(*torch_backend.quantize(config, recipe, checkpoint, batches, out, device, lessons))


def load_quantsim(
    config: ModelConfig, recipe: QuantizationRecipe, model: Path, encodings: Path, device: str
) -> Callable[[np.ndarray], Arrays]:
    """The stored simulation as a function from images N×3×H×W float32 to the arrays that the codec reads.

    Raises:
        QuantizationError: The two files do not belong together, or not to this configuration.
    """
    if config.network.from_file:
        from hpe_tasks.quantization import onnx_backend

        return onnx_backend.predictor(config, recipe, model, encodings, device)
    from hpe_tasks.quantization import torch_backend

    return torch_backend.predictor(config, recipe, model, encodings, device)


def leave_float(config: ModelConfig, files: QuantizedFiles, names: Iterable[str]) -> None:
    """Turn activation quantizers of the stored simulation off, for whatever loads it from now on.

    Args:
        config: The network.
        files: Changed where they lie.
        names: As the encodings have them: tensors of an aimet_onnx file, `layer.output_quantizers.0` of an
            aimet_torch one.

    Raises:
        QuantizationError: The files do not belong together, or have no such quantizer.
    """
    if config.network.from_file:
        from hpe_tasks.quantization import onnx_backend

        onnx_backend.leave_float(files.encodings, names)
    else:
        from hpe_tasks.quantization import torch_backend

        torch_backend.leave_float(files.model, files.encodings, names)


def set_codes(config: ModelConfig, files: QuantizedFiles, codes: Mapping[str, Code]) -> None:
    """Give activations of the stored simulation other ranges, for whatever loads it from now on.

    Args:
        config: The network.
        files: Changed where they lie.
        codes: Of 8 bits, by names as in `leave_float`.

    Raises:
        QuantizationError: The files do not belong together.
    """
    if config.network.from_file:
        from hpe_tasks.quantization import onnx_backend

        onnx_backend.set_codes(files.encodings, codes)
    else:
        from hpe_tasks.quantization import torch_backend

        torch_backend.set_codes(files.model, files.encodings, codes)


def best_device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def tool_versions() -> dict[str, str]:
    """Versions of the packages whose code decides the numbers in the exported file, and how it was judged."""
    from importlib.metadata import version

    quantized = ("aimet-torch", "aimet-onnx", "torch", "onnx", "onnxruntime", "numpy")
    judged = ("opencv-python-headless", "faster-coco-eval")
    return {name: version(name) for name in (*quantized, *judged)}
