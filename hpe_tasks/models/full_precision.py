"""How networks run where their maps are measured or calibrated: in all bits of a float32, and repeatably."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hpe_tasks.models.memory import Portions
from hpe_tasks.pose.codecs.arrays import Arrays


def full_float32() -> AbstractContextManager[None]:
    """Run torch on a GPU without TF32, cuDNN's default, and with deterministic kernels; no difference on a CPU.

    TF32 keeps ten bits of a float32: enough to hide, or to feign, a gap between the float network and its simulation.
    """
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return context


def as_function(
    network: nn.Module, names: Sequence[str], device: str | torch.device
) -> Callable[[NDArray[np.float32]], Arrays]:
    """Give a network that is on the device as a function from images N×3×H×W to its outputs, float32 in NumPy.

    Args:
        network: Gives an output for each of the names, in their order; of a network that gives those of several stages
            the last ones count.
        names: As the codec has them.
        device: Where the network is. Where its memory does not suffice for the images, it is shown half of them at a
            time from then on.
    """
    portions = Portions()

    def forward(images: NDArray[np.float32]) -> Arrays:
        output = network(torch.from_numpy(images).to(device))
        tensors = (output,) if isinstance(output, torch.Tensor) else output[-len(names) :]
        return {name: tensor.float().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}

    def run(images: NDArray[np.float32]) -> Arrays:
        with torch.inference_mode(), full_float32():
            given = portions.run(images, forward)
        return given[0] if len(given) == 1 else {name: np.concatenate([one[name] for one in given]) for name in names}

    return run
