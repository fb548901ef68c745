"""Networks of the project at the size of published ones, with random weights, quantized and exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.models import build_model
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.quantization import QuantizedFiles, quantize_model
from support import tiny_networks as tiny

MIN_MAX = QuantizationRecipe(scheme="min_max")


@dataclass(frozen=True, eq=False)
class Exported:
    """A network with random weights after min-max calibration.

    Attributes:
        images: (3, 3, H, W), the calibration images.
        expected: (3, K, h, w), what the network makes of them in float.
        files: What quantization has left.
        onnx: The exported file.
    """

    images: np.ndarray
    expected: np.ndarray
    files: QuantizedFiles
    onnx: Path


def exported(config: ModelConfig, folder: Path) -> Exported:
    """Build, quantize and export a network that gives one array of maps."""
    torch.manual_seed(0)
    checkpoint, simulated, out = folder / "weights.safetensors", folder / "quantsim", folder / "exported"
    network = build_model(config)
    save_file(network.state_dict(), checkpoint)
    images = tiny.smooth_images(3, config)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images)).numpy()
    simulated.mkdir()
    out.mkdir()
    files = quantize_model(config, MIN_MAX, checkpoint, [images], simulated, "cpu")
    return Exported(images, expected, files, export_onnx(config, MIN_MAX, files.model, files.encodings, out))
