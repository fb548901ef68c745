"""What pixel values become at a network's input. Needs numpy only: AWS Lambda ships this module."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=16)
def input_levels(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """Give what each of the 256 levels becomes in each channel of the input, in its order: 3×256, read-only.

    A level is brought to [0, 1], the mean subtracted, and the rest divided by the deviation.
    """
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    table = (levels - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]
    table.flags.writeable = False
    return table
