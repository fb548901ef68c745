"""Coarse maps read as if they had been upsampled to the image's size, at the pixels that are asked for and no others.

Sizes are (W, H), arrays H×W; coordinates (x, y) in pixels, the centre of the first pixel is (0, 0). Needs numpy only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.contract.frozen import frozen

Value = TypeVar("Value", np.float64, np.complex128)


@frozen
class Interpolation:
    """Bilinear upsampling along one axis as OpenCV does it: half-pixel centres, the border cells repeat.

    Pixel p has the value (1 − fraction[p]) · cell[lower[p]] + fraction[p] · cell[lower[p] + 1]; where there is no next
    cell, the fraction is 0.
    """

    lower: NDArray[np.intp]
    fraction: NDArray[np.float64]


@lru_cache(maxsize=512)
def interpolation(size: int, cells: int) -> Interpolation:
    """Give the upsampling of an axis from `cells` values to `size` pixels."""
    position = (np.arange(size) + 0.5) * (cells / size) - 0.5
    lower = np.floor(position).astype(np.intp)
    fraction = np.where((lower < 0) | (lower >= cells - 1), 0.0, position - lower)
    return Interpolation(np.clip(lower, 0, cells - 1), fraction)


class UpsampledMaps(Generic[Value]):
    """Maps of the image's size, of which only the coarse cells are kept.

    A bilinear value depends on four cells, so reading it from them equals upsampling first and reading then.

    Args:
        maps: C×h×w.
        image_size: (W, H) that they are upsampled to.
    """

    def __init__(self, maps: NDArray[Value], image_size: tuple[int, int]) -> None:
        _, height, width = maps.shape
        self._x = interpolation(image_size[0], width)
        self._y = interpolation(image_size[1], height)
        # One more row and column, whose share is 0, so that the next cell always exists.
        self._cells: NDArray[Value] = np.pad(maps, ((0, 0), (0, 1), (0, 1)), mode="edge").ravel()
        self._row = width + 1
        self._map = (width + 1) * (height + 1)

    def at(self, index: NDArray[np.intp], x: NDArray[np.intp], y: NDArray[np.intp]) -> NDArray[Value]:
        """Read map `index` at pixel (x, y); the three arrays have or broadcast to one shape."""
        corner = index * self._map + self._y.lower[y] * self._row + self._x.lower[x]
        right, down = self._x.fraction[x], self._y.fraction[y]
        above = self._between(corner, right)
        below = self._between(corner + self._row, right)
        value: NDArray[Value] = above + (below - above) * down
        return value

    def _between(self, corner: NDArray[np.intp], right: NDArray[np.float64]) -> NDArray[Value]:
        left = self._cells[corner]
        value: NDArray[Value] = left + (self._cells[corner + 1] - left) * right
        return value
