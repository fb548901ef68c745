"""Layers of a network that the project builds, in float and in AIMET's simulation: what each gives, by hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.models.full_precision import as_function
from hpe_tasks.models.interface import output_shapes
from hpe_tasks.quantization.aimet import vendor_warnings_muted
from hpe_tasks.quantization.layer_tensors import LayerValues
from hpe_tasks.quantization.torch_backend import float_network, load_sim

_Place = tuple[str, str, int]
"""A module, "in" or "out", and which of its tensors."""


class TorchLayers:
    """See `hpe_tasks.quantization.layer_tensors.open_layers`."""

    def __init__(
        self, config: ModelConfig, recipe: QuantizationRecipe, checkpoint: Path, model: Path, encodings: Path
    ) -> None:
        self._sim = load_sim(config, recipe, model, encodings, "cpu").model.eval()
        network = float_network(config, recipe, checkpoint).eval()
        self._floats: dict[_Place, torch.Tensor] = {}
        self._simulated: list[tuple[_Place, Any, torch.Tensor]] = []
        self._inside: list[tuple[str, nn.Module]] = []
        quantized = {name: module for name, module in self._sim.named_modules() if hasattr(module, "output_quantizers")}
        for name, module in network.named_modules():
            if name in quantized:
                self._watch_float(name, module)
        seen: set[int] = set()
        for name, module in quantized.items():
            self._watch_simulated(name, module, seen)
        names = tuple(output_shapes(config))
        self._run_float, self._run_sim = (as_function(each, names, "cpu") for each in (network, self._sim))

    def run(self, image: NDArray[np.float32]) -> list[LayerValues]:
        """See `LayerTensors`."""
        self._floats.clear()
        self._simulated.clear()
        with vendor_warnings_muted():
            floats, simulated = self._run_float(image[None]), self._run_sim(image[None])
        values = []
        for place, quantizer, tensor in self._simulated:
            if place not in self._floats:
                continue
            low, high = (float(end().detach().max()) for end in (quantizer.get_min, quantizer.get_max))
            shown, operator = _titles(place, self._sim.get_submodule(place[0]))
            values.append(LayerValues(shown, operator, low, high, _array(self._floats[place]), _array(tensor)))
        outputs = (LayerValues(name, "output", None, None, floats[name], simulated[name]) for name in floats)
        return [*values, *outputs]

    def _watch_float(self, name: str, module: nn.Module) -> None:
        def keep(_: nn.Module, given: tuple[Any, ...], result: Any) -> None:
            results = result if isinstance(result, (tuple, list)) else (result,)
            for role, tensors in (("in", given), ("out", results)):
                for index, tensor in enumerate(tensors):
                    if isinstance(tensor, torch.Tensor):
                        # What follows may overwrite it in place.
                        self._floats[name, role, index] = tensor.detach().clone()

        module.register_forward_hook(keep)

    def _watch_simulated(self, name: str, module: Any, seen: set[int]) -> None:
        module.register_forward_pre_hook(lambda *_: self._inside.append((name, module)))
        module.register_forward_hook(lambda *_: _drop(self._inside))
        for quantizer in (*module.input_quantizers, *module.output_quantizers):
            # Some serve several modules; the one that runs says whose tensor it is.
            if quantizer is not None and id(quantizer) not in seen:
                seen.add(id(quantizer))
                quantizer.register_forward_hook(self._keep_simulated)

    def _keep_simulated(self, quantizer: nn.Module, _: Any, result: torch.Tensor) -> None:
        name, module = self._inside[-1]
        for role in ("in", "out"):
            for index, own in enumerate(getattr(module, f"{role}put_quantizers")):
                place = (name, role, index)
                if own is quantizer and all(place != known for known, _, _ in self._simulated):
                    self._simulated.append((place, quantizer, result.detach().clone()))
                    return


def _drop(inside: list[Any]) -> None:
    inside.pop()


def _titles(place: _Place, module: nn.Module) -> tuple[str, str]:
    name, role, _ = place
    operator = type(module).__name__.removeprefix("Quantized")
    return (f"input of {name}", "input") if role == "in" else (name, operator)


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.as_subclass(torch.Tensor).float().cpu().numpy()
    return array
