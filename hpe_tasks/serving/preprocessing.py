"""Pixels as the evaluation shows them to a network, without OpenCV.

A network's accuracy is measured on what OpenCV's `warpAffine` and `resize` make of images with INTER_LINEAR. Both work
in whole numbers, so the same numbers come out here, byte for byte. Pillow's bilinear `transform` would not be faster,
and not the same: on coco-mini, with EfficientPose RT_LITE, 45 % of the values differ (mostly by one level, at borders
by up to 126), 24 % of the joints move by more than a cell of the heatmap, and AP changes by 0.0003. Crops are not
rotated, so that rows and columns are interpolated apart.

Sizes are (W, H), arrays H×W×3, or H×W×4 where the fourth value stays unused: NumPy moves four bytes as fast as one.
Coordinates are (x, y) in pixels, the centre of the first pixel is (0, 0).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.pose.crops import crop_matrix

Pixels = NDArray[np.uint8]
"""H×W×3, RGB; or H×W×4 with a value that is not looked at."""

# warpAffine: coordinates are summed up in 1/1024 pixel and rounded to 1/32.
_COORDINATE_UNITS = 1024
_STEPS = 32
# resize: weights in 1/2048.
_WEIGHT_UNITS = 2048


def crop(image: Pixels, center: NDArray[np.float64], scale: NDArray[np.float64], size: tuple[int, int]) -> Pixels:
    """Cut out what `crop_matrix(center, scale, size)` maps to a crop of `size`; what lies outside the image is black.

    Args:
        image: H×W×3 or H×W×4; the crop is of the same kind.
        center: (x, y) in image pixels.
        scale: (w, h) in units of 200 pixels.
        size: (W, H) of the crop.
    """
    matrix = crop_matrix(center, scale, size)
    # Inverted as warpAffine does it: another order of operations rounds a column differently now and then.
    reciprocal = 1.0 / (matrix[0, 0] * matrix[1, 1])
    factor_x, factor_y = matrix[1, 1] * reciprocal, matrix[0, 0] * reciprocal
    first_x, first_y = -factor_x * matrix[0, 2], -factor_y * matrix[1, 2]
    # Along a row warpAffine rounds the step and the start apart, along a column their sum.
    x = _units(np.arange(size[0]) * factor_x) + _units(first_x)
    y = _units(np.arange(size[1]) * factor_y + first_y)
    left, right, weight_left, weight_right = _taps(x, image.shape[1])
    above, below, weight_above, weight_below = _taps(y, image.shape[0])
    at_left, at_right = _gather(image, np.concatenate([above, below]), left, right)
    lines = at_left * _by_channel(weight_left, image, np.uint16)
    lines += at_right * _by_channel(weight_right, image, np.uint16)
    pixels = lines[: size[1]] * weight_above[:, None].astype(np.uint32)
    pixels += lines[size[1] :] * weight_below[:, None].astype(np.uint32)
    pixels += _STEPS * _STEPS // 2
    pixels //= _STEPS * _STEPS
    return _as_pixels(pixels, size)


def resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize an image to `size` (W, H), bilinear and without averaging where it shrinks."""
    left, right_share = _stretched(size[0], image.shape[1])
    # Beyond the outermost centres a row keeps its first or last pixel; a column does so by its weights.
    right_share[(left < 0) | (left >= image.shape[1] - 1)] = 0
    above, below_share = _stretched(size[1], image.shape[0])
    weight_left, weight_right = (_by_channel(weights, image, np.int32) for weights in _weights(right_share))
    weight_above, weight_below = (weights[:, None] for weights in _weights(below_share))
    rows = np.clip(np.concatenate([above, above + 1]), 0, image.shape[0] - 1)
    last = image.shape[1] - 1
    at_left, at_right = _gather(image, rows, np.clip(left, 0, last), np.clip(left + 1, 0, last))
    lines = at_left * weight_left
    lines += at_right * weight_right
    lines >>= 4
    pixels = (lines[: size[1]] * weight_above) >> 16
    pixels += (lines[size[1] :] * weight_below) >> 16
    pixels += 2
    pixels >>= 2
    return _as_pixels(pixels, size)


def normalize(pixels: Pixels, levels: NDArray[np.float32], planes: NDArray[np.float32]) -> None:
    """Write a network's input 3×H×W into `planes`, by the 3×256 `levels` of `codecs.input_levels`; both in RGB."""
    for channel, plane in enumerate(planes):
        # Every byte is an index of the table, so there is nothing to clip; the default mode would make a copy first.
        np.take(levels[channel], pixels[..., channel], out=plane, mode="clip")


def _as_pixels(values: NDArray[np.integer[Any]], size: tuple[int, int]) -> Pixels:
    pixels: Pixels = values.astype(np.uint8).reshape(size[1], size[0], -1)
    return pixels


def _units(positions: Any) -> NDArray[np.int64]:
    units: NDArray[np.int64] = np.rint(positions * _COORDINATE_UNITS).astype(np.int64)
    return units


def _taps(units: NDArray[np.int64], length: int) -> tuple[NDArray[np.int64], ...]:
    """Of each position, the two pixels around it and their weights in 1/32, which are 0 outside the image."""
    coarse = _COORDINATE_UNITS // _STEPS
    steps = (units + coarse // 2) // coarse
    before, share = steps // _STEPS, steps % _STEPS
    after = before + 1
    return (
        np.clip(before, 0, length - 1),
        np.clip(after, 0, length - 1),
        np.where((before >= 0) & (before < length), _STEPS - share, 0),
        np.where((after >= 0) & (after < length), share, 0),
    )


def _stretched(size: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Where `size` pixels lie on `length`: the pixel before each, and how far it is on the way to the next."""
    position = ((np.arange(size) + 0.5) * (1.0 / (size / length)) - 0.5).astype(np.float32)
    before = np.floor(position)
    return before.astype(np.int64), position - before


def _weights(share: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    units = np.float32(_WEIGHT_UNITS)
    return np.rint((1 - share) * units).astype(np.int32), np.rint(share * units).astype(np.int32)


def _by_channel(weights: NDArray[Any], image: Pixels, kind: type[Any]) -> NDArray[Any]:
    """Give each of a pixel's values its weight."""
    return np.repeat(weights.astype(kind), image.shape[2])


def _gather(
    image: Pixels, rows: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> tuple[Pixels, Pixels]:
    """The values of an image at rows × left and at rows × right, with those of a pixel side by side: R×3C or R×4C."""
    # What lies between these columns first: whole lines are copied fast, and an image may be far wider than a person.
    start, end = int(left.min()), int(right.max()) + 1
    lines = np.ascontiguousarray(image[rows, start:end])
    # A pixel of three bytes has no number type.
    pixels = lines.view(np.uint32 if image.shape[2] == 4 else "V3")[..., 0]
    at_left, at_right = (np.take(pixels, columns - start, axis=1).view(np.uint8) for columns in (left, right))
    return at_left, at_right
