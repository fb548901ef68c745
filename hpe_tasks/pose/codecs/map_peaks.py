"""Peaks of coarse maps after upsampling to the image's size and smoothing, found without making the large maps.

Bilinear upsampling and Gaussian smoothing are linear and act on rows and columns apart: the smoothed map is
S_y · map · S_xᵀ, and a row of S_y or S_x has few weights that are not zero. So it is worked out in tiles, each from the
few cells that reach it, and only in tiles that can exceed the threshold: weights are not negative, so the largest that
each cell has anywhere in a tile bound all of it. Nothing is approximated.

Sizes are (W, H), arrays H×W; coordinates (x, y) in pixels, the centre of the first pixel is (0, 0). Needs numpy only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.pose.codecs.upsampling import UpsampledMaps, interpolation

SIGMA = 3.0
"""Standard deviation of the smoothing, in image pixels."""

_RADIUS = int(4 * SIGMA + 0.5)  # where SciPy's gaussian_filter cuts its kernel: truncate=4
_TILE = 16
_TILES_AT_ONCE = 256  # 0.7 MB of float64: stays in a core's cache
# Values closer than this are equal. A peak midway between two pixels gives both the same value: both are peaks, and
# rounding must not choose one.
_EQUAL = 1e-9


@frozen
class Peaks:
    """Peaks of several maps, ordered by map, then row, then column.

    Attributes:
        maps: N, index of the peak's map.
        x: N, in image pixels.
        y: N, in image pixels.
        scores: N, the value of the upsampled map there, before smoothing.
    """

    maps: NDArray[np.intp]
    x: NDArray[np.intp]
    y: NDArray[np.intp]
    scores: NDArray[np.float64]


@frozen
class _Axis:
    """Upsampling and smoothing along one axis, cut into tiles.

    Attributes:
        weights: T×(tile + 2)×K, from the K cells that reach a tile to its pixels and the one before and after them;
            pixels outside the image have no weights, so that they are 0.
        cells: T×K, which cells these are.
        largest: T×cells, the largest weight that a cell has in the tile.
    """

    weights: NDArray[np.float64]
    cells: NDArray[np.intp]
    largest: NDArray[np.float64]


# 40 KB each at the sizes of COCO; making one takes a millisecond.
@lru_cache(maxsize=256)
def _axis(size: int, cells: int) -> _Axis:
    matrix = smoothing_matrix(size, cells)
    tiles = -(-size // _TILE)
    padded = np.zeros((tiles * _TILE + 2, cells))
    padded[1 : size + 1] = matrix
    rows = padded[np.arange(tiles)[:, None] * _TILE + np.arange(_TILE + 2)]
    reached = (rows > 0).any(axis=1)
    first = reached.argmax(axis=1)
    width = int((cells - reached[:, ::-1].argmax(axis=1) - first).max())
    window = np.minimum(first, cells - width)[:, None] + np.arange(width)
    return _Axis(np.take_along_axis(rows, window[:, None], axis=2), window, rows[:, 1:-1].max(axis=1))


def smoothing_matrix(size: int, cells: int) -> NDArray[np.float64]:
    """Give the matrix that upsamples an axis and smooths it: size×cells, no weight negative, rows of sum 1.

    The Gaussian is cut at four standard deviations, and the border reflects the pixels, the outermost included (SciPy's
    `reflect`).
    """
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    kernel = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    kernel /= kernel.sum()
    source = (np.arange(size)[:, None] + offsets) % (2 * size)
    source = np.minimum(source, 2 * size - 1 - source)
    axis = interpolation(size, cells)
    share = axis.fraction[source]
    # One column more, for the next cell of the last, whose share is 0.
    cell = np.arange(size)[:, None] * (cells + 1) + axis.lower[source]
    length = size * (cells + 1)
    flat = np.bincount(cell.ravel(), (kernel * (1 - share)).ravel(), length).astype(np.float64)
    flat[1:] += np.bincount(cell.ravel(), (kernel * share).ravel(), length)[:-1]
    return flat.reshape(size, cells + 1)[:, :cells]


def find_map_peaks(maps: NDArray[np.float64], image_size: tuple[int, int], threshold: float) -> Peaks:
    """Find the pixels of the smoothed maps that are above a threshold and not below any of their four neighbours.

    Neighbours outside the image count as 0. Values within 1e-9 are equal.

    Args:
        maps: C×h×w, finite.
        image_size: (W, H) that the maps are upsampled to before smoothing.
        threshold: Not negative.
    """
    _, height, width = maps.shape
    columns, rows = _axis(image_size[0], width), _axis(image_size[1], height)
    bound = rows.largest @ np.maximum(maps, 0.0) @ columns.largest.T
    # Far more than rounding can be off; what is let through is worked out exactly.
    tiles = np.argwhere(bound > threshold - 1e-6)
    found = [
        _peaks_in_tiles(maps, rows, columns, tiles[start : start + _TILES_AT_ONCE], threshold)
        for start in range(0, len(tiles), _TILES_AT_ONCE)
    ]
    index, y, x = np.concatenate(found, axis=1) if found else np.empty((3, 0), np.intp)
    order = np.lexsort((x, y, index))
    index, y, x = index[order], y[order], x[order]
    return Peaks(index, x, y, UpsampledMaps(maps, image_size).at(index, x, y))


def _peaks_in_tiles(
    maps: NDArray[np.float64], rows: _Axis, columns: _Axis, tiles: NDArray[np.intp], threshold: float
) -> NDArray[np.intp]:
    """Give map, y and x of each peak, 3×N; `tiles` is M×3: map, row and column of the tile."""
    index, row, column = tiles.T
    cells = maps[index[:, None, None], rows.cells[row][:, :, None], columns.cells[column][:, None, :]]
    smooth = rows.weights[row] @ cells @ columns.weights[column].transpose(0, 2, 1)
    # Neighbours in one long row of values: NumPy is slow on rows of sixteen. What this makes of a tile's margin, whose
    # neighbours belong to other tiles, is dropped.
    values, breadth = smooth.ravel(), _TILE + 2
    reach = values + _EQUAL
    peak = values > threshold
    for step in (1, breadth):
        peak[:-step] &= reach[:-step] >= values[step:]
        peak[step:] &= reach[step:] >= values[:-step]
    tile, y, x = np.unravel_index(np.flatnonzero(peak), smooth.shape)
    inner = (y >= 1) & (y <= _TILE) & (x >= 1) & (x <= _TILE)
    tile, y, x = tile[inner], y[inner] - 1, x[inner] - 1
    return np.stack([index[tile], row[tile] * _TILE + y, column[tile] * _TILE + x])
