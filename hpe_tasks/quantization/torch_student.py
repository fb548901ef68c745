"""What learns in a simulation of aimet_torch, and by how much: weights, biases, and the ranges of activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hpe_tasks.quantization.distillation import Learnt
from hpe_tasks.quantization.grid_limit import GridLimit


def learnt_tensors(model: nn.Module, limits: Mapping[str, GridLimit]) -> list[Learnt]:
    """The tensors that learn in the model of a calibrated simulation; all others are made to stay as they are.

    Steps of weights stay, and so does the range of what goes into the network: images are what they are.

    Args:
        model: Of the simulation.
        limits: Where the weights of the layers of these names may be; those of others may be anywhere.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    named: dict[str, Any] = {name: m for name, m in model.named_modules() if hasattr(m, "param_quantizers")}
    layers = list(named.values())
    learnt = [one for name, layer in named.items() for one in _of_layer(layer, limits.get(name))]
    inputs = {id(quantizer) for layer in layers for quantizer in layer.input_quantizers}
    # One quantizer may serve several layers.
    outputs = {id(quantizer): quantizer for layer in layers for quantizer in layer.output_quantizers}
    learnt += [one for key, quantizer in outputs.items() if quantizer is not None and key not in inputs
               for one in range_of(quantizer)]  # fmt: skip
    for one in learnt:
        one.parameter.requires_grad_(True)
    return learnt


def range_of(quantizer: Any) -> list[Learnt]:
    """The ends of an activation's range; one that begins at zero keeps doing so, because kernels need that."""
    low, high = quantizer.get_min().detach(), quantizer.get_max().detach()
    ends = {"min": quantizer.min, "max": quantizer.max}
    with torch.no_grad():
        # What AIMET computes with is the given range, moved so that zero has a code.
        quantizer.min.copy_(low)
        quantizer.max.copy_(high)
    return [
        Learnt(end, high - low)
        for name, end in ends.items()
        if not ((name == "min" and bool((low == 0).all())) or (name == "max" and bool((high == 0).all())))
    ]


def weight_unit(span: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """What is a large change of a weight: less where more of them are added up, as they are when they all move.

    Args:
        span: Of their codes, from the smallest to the largest, of a shape that broadcasts to the weights'.
        shape: Of the weights; those that are added up lie behind the first axis.
    """
    return span / (2 * math.sqrt(max(1, math.prod(shape[1:]))))


def _of_layer(layer: Any, limit: GridLimit | None) -> list[Learnt]:
    """A layer's weights, and what else it has, in the measure of its largest value."""
    quantizers = dict(layer.param_quantizers.items())
    learnt = []
    for name, parameter in layer.named_parameters(recurse=False):
        quantizer = quantizers.get(name)
        if quantizer is None:
            largest = parameter.detach().abs().max()
            learnt.append(Learnt(parameter, largest if largest > 0 else torch.ones_like(largest)))
        else:
            unit = weight_unit((quantizer.get_max() - quantizer.get_min()).detach(), tuple(parameter.shape))
            learnt.append(Learnt(parameter, unit, limit if name == "weight" else None))
    return learnt
