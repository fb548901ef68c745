"""How a training changes weights: optimizer, learning rate of each step, and the mean of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.training.norms import copy_without_hooks


def make_optimizer(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the weights that learn."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    kind: type[torch.optim.Adam] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    return kind(learning, lr=config.learning_rate, betas=(0.9, config.beta2), weight_decay=config.weight_decay)


def rate(step: int, steps_per_epoch: int, config: TrainingConfig) -> float:
    """Factor on the learning rate: a linear rise over the warm-up, then drops, or a cosine down to nearly zero."""
    warm_up = max(1, config.warm_up_epochs * steps_per_epoch)
    if step < warm_up:
        return min(1.0, (step + 1) / warm_up)  # A warm-up may end within a step.
    if config.drop_epochs:
        return float(config.drop_factor ** sum(step >= epoch * steps_per_epoch for epoch in config.drop_epochs))
    done = (step - warm_up) / max(1, config.epochs * steps_per_epoch - warm_up)
    return max(0.5 * (1 + math.cos(math.pi * min(done, 1.0))), 1e-3)


class MeanWeights:
    """A copy of a network whose weights are an exponential moving mean of those that learn.

    In the first steps the mean looks back less far, so that it forgets the weights at the start. Batch norms'
    statistics, which are means already, are copied.
    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992); the shorter memory
    at the start is that of TensorFlow's ExponentialMovingAverage.

    Args:
        network: The network that learns.
        decay: Share of the mean that stays in a step.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy_without_hooks(network).requires_grad_(False).eval()
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        means: list[torch.Tensor] = list(self.network.parameters())
        weights: list[torch.Tensor] = list(network.parameters())
        torch._foreach_lerp_(means, weights, 1 - decay)
        for ours, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            ours.copy_(theirs)

    def state(self) -> dict[str, Any]:
        """All that the next update depends on."""
        return {"network": self.network.state_dict(), "updates": self._updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.network.load_state_dict(state["network"])
        self._updates = state["updates"]
