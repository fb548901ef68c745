"""How networks run where their maps are measured or calibrated: in all bits of a float32, and repeatably."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def full_float32() -> AbstractContextManager[None]:
    """Run torch on a GPU without TF32, cuDNN's default, and with deterministic kernels; no difference on a CPU.

    TF32 keeps ten bits of a float32: enough to hide, or to feign, a gap between the float network and its simulation.
    """
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return context


def as_function(network: nn.Module, device: str | torch.device) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Give a network that is on the device as a function from images N×3×H×W to maps N×C×h×w, both float32 in NumPy.

    Of a network with several outputs these are the last two, joined: its last part-affinity fields and heatmaps.
    """

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), full_float32():
            output = network(torch.from_numpy(images).to(device))
            joined = output if isinstance(output, torch.Tensor) else torch.cat(output[-2:], dim=1)
            maps: NDArray[np.float32] = joined.float().cpu().numpy()
        return maps

    return run
