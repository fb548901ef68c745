"""What a training or a distillation makes small, by the kind of loss that a codec asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from hpe_tasks.pose.codecs.codec import Loss
from hpe_tasks.pose.codecs.simcc import BETA

Tensors = dict[str, torch.Tensor]

LossFunction = Callable[[Tensors, Tensors, Tensors], torch.Tensor]
"""Of outputs, targets and weights, all by the codec's names: the loss, a scalar."""


def squared_error(outputs: Tensors, targets: Tensors, weights: Tensors) -> torch.Tensor:
    """The squared error of maps N×C×h×w, summed over a map's pixels and averaged over all maps, labelled or not."""
    errors = []
    for name, target in targets.items():
        weight = weights[name]
        factor = weight[:, :, None, None] if weight.ndim == 2 else weight
        errors.append(((outputs[name] - target).square() * factor).sum(dim=(2, 3)))
    return torch.cat(errors, dim=1).mean()


def divergence(outputs: Tensors, targets: Tensors, weights: Tensors) -> torch.Tensor:
    """The Kullback-Leibler divergence of vectors N×J×bins from the targets, both through a softmax, as RTMPose's.

    It is summed over the axes, and averaged over all joints, labelled or not.
    """
    errors = []
    for name, target in targets.items():
        found = torch.log_softmax(outputs[name].float() * BETA, dim=2)
        wanted = torch.log_softmax(target * BETA, dim=2)
        errors.append((wanted.exp() * (wanted - found)).sum(dim=2) * weights[name])
    return torch.stack(errors).sum(dim=0).mean()


LOSSES: Mapping[Loss, LossFunction] = {"squared_error": squared_error, "divergence": divergence}
