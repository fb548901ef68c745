"""The way back out of a crop, written apart from the product's."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpe_tasks.pose.crops import PIXEL_STD


def inverse_crop_matrix(center: ArrayLike, scale: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    """Give the 2×3 affine matrix from a crop of `size` (W, H) back to image pixels: the inverse of `crop_matrix`."""
    x, y = np.asarray(center, dtype=np.float64)
    factor = float(np.asarray(scale, dtype=np.float64)[0]) * PIXEL_STD / size[0]
    return np.array([[factor, 0.0, x - factor * size[0] / 2], [0.0, factor, y - factor * size[1] / 2]])
