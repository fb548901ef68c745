"""How networks run where their maps are measured or calibrated: in all bits of a float32, and repeatably."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch


def full_float32() -> AbstractContextManager[None]:
    """Run torch on a GPU without TF32, cuDNN's default, and with deterministic kernels; no difference on a CPU.

    TF32 keeps ten bits of a float32: enough to hide, or to feign, a gap between the float network and its simulation.
    """
    context: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False
    )
    return context
