"""What a network and its simulation compute in each layer, whichever backend quantized it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe


@dataclass(frozen=True, eq=False)
class LayerValues:
    """An activation that the simulation quantizes, or an output, of one image.

    Attributes:
        name: Of the layer.
        operator: What computes it.
        low: Smallest value of its range; None for an output that stays float.
        high: Largest one.
        floats: FP32's values, with the first axis.
        simulated: The simulation's, quantized.
    """

    name: str
    operator: str
    low: float | None
    high: float | None
    floats: NDArray[np.float32]
    simulated: NDArray[np.float32]


class LayerTensors(Protocol):
    """A network before quantization and its simulation, run together."""

    def run(self, image: NDArray[np.float32]) -> list[LayerValues]:
        """All of them for an image 3×H×W, in the order in which they are computed, outputs last."""


def open_layers(
    config: ModelConfig,
    recipe: QuantizationRecipe,
    checkpoint: Path,
    model: Path,
    encodings: Path,
    batches: Iterable[NDArray[np.float32]],
) -> LayerTensors:
    """Load a checkpoint in the form in which it was quantized, and its stored simulation.

    Args:
        config: The network.
        recipe: How it was quantized.
        checkpoint: As it came: stored networks may have their weights on the grid already.
        model: `QuantizedFiles.model`.
        encodings: `QuantizedFiles.encodings`.
        batches: What `quantize_model` was given; only the first are read.

    Raises:
        CheckpointError: The checkpoint does not fit.
        QuantizationError: The two files do not belong together, or not to this configuration.
    """
    if config.network.from_file:
        from hpe_tasks.quantization.onnx_layers import OnnxLayers

        return OnnxLayers(config, recipe, checkpoint, model, encodings, batches)
    from hpe_tasks.quantization.torch_layers import TorchLayers

    return TorchLayers(config, recipe, checkpoint, model, encodings)
