"""Ranges of activations while a network learns: what grows without bound there is lost in int8 later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from hpe_tasks.records.training_curves import HIGHEST, LOWEST
from hpe_tasks.training.observing import Observer

_LAYERS = 8
_EVERY = 10
_WRAPPERS = ("_forward_module.", "module.", "_orig_mod.")
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class ActivationRanges:
    """Tells other observers, with each epoch, the least and the largest output of some layers in that epoch.

    Looked at are the outputs of batch norms, which are those of the folded convolutions that are quantized, or of
    convolutions in a network without; and what the last layer gives. Every tenth batch of an epoch is looked at, from
    the first on: neither the weights nor the time of a training depend on it.

    Args:
        told: Whom everything is told, with the ranges.
        layers: Number of layers, evenly over the network.
        every: Look at one of so many batches.
    """

    def __init__(self, told: Sequence[Observer], *, layers: int = _LAYERS, every: int = _EVERY) -> None:
        self._told, self._layers, self._every = tuple(told), layers, every
        self._found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._hooks: list[RemovableHandle] = []
        self._batches = 0

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """Begin to look at the network's layers."""
        self._leave()
        self._hooks = [network.register_forward_pre_hook(self._counting())]
        self._hooks += [
            module.register_forward_hook(self._looking(name))
            for name, module in observed_layers(network, self._layers).items()
        ]
        for observer in self._told:
            observer.begins(settings, network, steps=steps, done=done)

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        """Pass a step on."""
        for observer in self._told:
            observer.stepped(step, figures)

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Pass an epoch on, with its ranges."""
        ranges = {LOWEST + name: float(low) for name, (low, _) in self._found.items()}
        ranges |= {HIGHEST + name: float(high) for name, (_, high) in self._found.items()}
        self._found, self._batches = {}, 0
        for observer in self._told:
            observer.measured(step, {**figures, **ranges})

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Let the network go."""
        self._leave()
        for observer in self._told:
            observer.ends(figures, files)

    def _leave(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._found, self._batches = [], {}, 0

    # Functions and not methods: a copy of the network, such as one that AP is measured with, takes its hooks along, and
    # with a method it would copy this object.

    def _counting(self) -> Callable[[nn.Module, Any], None]:
        def count(module: nn.Module, _: Any) -> None:
            self._batches += module.training

        return count

    def _looking(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, _: Any, output: Any) -> None:
            if not module.training or (self._batches - 1) % self._every or not isinstance(output, torch.Tensor):
                return
            low, high = torch.aminmax(output.detach())
            if name in self._found:
                before = self._found[name]
                low, high = torch.minimum(before[0], low), torch.maximum(before[1], high)
            self._found[name] = low, high

        return look


def observed_layers(network: nn.Module, count: int) -> dict[str, nn.Module]:
    """So many layers of a network by their names, from its first to its last."""
    named = [(_short(name), module) for name, module in network.named_modules()]
    norms = [(name, module) for name, module in named if isinstance(module, _NORMS)]
    weighted = [(name, module) for name, module in named if isinstance(module, _WEIGHTED)]
    candidates = [*norms, *weighted[-1:]] if norms else weighted
    if len(candidates) > count:
        last = len(candidates) - 1
        places = sorted({round(i * last / max(1, count - 1)) for i in range(count)})
        candidates = [candidates[place] for place in places]
    return dict(candidates)


def _short(name: str) -> str:
    """A layer's name without those of what is wrapped around the network for several devices."""
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name
