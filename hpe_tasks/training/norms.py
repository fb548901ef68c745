"""Batch norms for the training of a network that has none: it learns several times faster, and they fold away.

A batch norm stands between each layer's last convolution and the ReLU behind it. Folded, it is a factor on that
convolution's weights and another bias, so that the network that is saved has its own layers and no others.
Source: Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
Shift" (2015).
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from torch import nn

_MOMENTUM = 0.05
"""Share of a batch in the running statistics. A training of some hundred steps cannot wait longer, and a batch of few
images is too noisy for more."""


class _Normalized(nn.Module):
    """A layer and the batch norm behind it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.norm = nn.BatchNorm2d(_last_convolution(layer).out_channels, momentum=_MOMENTUM)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        normalized: torch.Tensor = self.norm(self.layer(inputs))
        return normalized


def add_batch_norms(model: nn.Module) -> None:
    """Put a batch norm before each ReLU of the network's `Sequential`s, which follows a convolution or a pair."""
    for layers in _sequentials(model):
        for index in range(len(layers) - 1):
            if isinstance(layers[index + 1], nn.ReLU):
                layers[index] = _Normalized(layers[index])


def without_batch_norms(model: nn.Module) -> nn.Module:
    """Copy a network and fold what `add_batch_norms` put in: in evaluation mode both give the same.

    Hooks stay with the original: they watch what learns.
    """
    plain = copy_without_hooks(model)
    for layers in _sequentials(plain):
        for index, layer in enumerate(layers):
            if isinstance(layer, _Normalized):
                _fold(_last_convolution(layer.layer), layer.norm)
                layers[index] = layer.layer
    return plain


def copy_without_hooks(model: nn.Module) -> nn.Module:
    """Copy a network; a copied hook would bring copies of all that it refers to, such as an open file."""
    kept = {}
    for module in model.modules():
        kept[module] = module._forward_hooks, module._forward_pre_hooks
        module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
    try:
        return copy.deepcopy(model)
    finally:
        for module, (after, before) in kept.items():
            module._forward_hooks, module._forward_pre_hooks = after, before


def _sequentials(model: nn.Module) -> list[nn.Sequential]:
    return [module for module in model.modules() if isinstance(module, nn.Sequential)]


def _last_convolution(layer: nn.Module) -> nn.Conv2d:
    last = layer[-1] if isinstance(layer, nn.Sequential) else layer
    if not isinstance(last, nn.Conv2d) or last.bias is None:
        raise TypeError(f"a batch norm needs a convolution with a bias before it, not {type(last).__name__}")
    return last


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, variance, bias = norm.running_mean, norm.running_var, convolution.bias
    if mean is None or variance is None or bias is None:
        raise TypeError("a batch norm without running statistics, or a convolution without a bias, cannot be folded")
    with torch.no_grad():
        factor = norm.weight / (variance + norm.eps).sqrt()
        convolution.weight.mul_(factor[:, None, None, None])
        bias.copy_((bias - mean) * factor + norm.bias)
