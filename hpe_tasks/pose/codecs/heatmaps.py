"""Top-down heatmaps as Simple Baselines makes and reads them; `hpe_tasks.pose.crops` has the geometry and conventions.

Needs numpy only: AWS Lambda ships this module.
Source: Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking" (2018) and its reference code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpe_tasks.pose.crops import from_crops

Floats = NDArray[np.floating[Any]]

_QUARTER = 0.25


def encode_heatmaps(
    joints: ArrayLike, visible: ArrayLike, size: tuple[int, int], sigma: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw the heatmap that a network should give for each joint: a Gaussian around it.

    The Gaussian is centred on the joint itself, not on the nearest pixel, so that the quarter-pixel shift of
    `decode_heatmaps` finds the side on which the joint lies.

    Args:
        joints: N×K×2, (x, y) in heatmap pixels: image pixels through `crop_matrix` with the heatmap's size.
        visible: N×K; joints with 0 are not labelled.
        size: (W, H) of the heatmaps.
        sigma: Standard deviation in heatmap pixels.

    Returns:
        Targets N×K×H×W float32 with values in [0, 1], and weights N×K float32: 1 for a labelled joint whose nearest
        pixel lies on the heatmap, else 0; the target of a joint with weight 0 is all zeros.
    """
    points = np.asarray(joints, dtype=np.float64)
    width, height = size
    nearest = np.floor(points + 0.5)
    inside = ((nearest >= 0) & (nearest < (width, height))).all(axis=-1)
    weights = ((np.asarray(visible) > 0) & inside).astype(np.float32)
    spread = 2.0 * sigma**2
    rows = np.exp(-((np.arange(height) - points[..., 1:2]) ** 2) / spread) * weights[..., None]
    columns = np.exp(-((np.arange(width) - points[..., 0:1]) ** 2) / spread)
    targets = rows[..., :, None].astype(np.float32) * columns[..., None, :].astype(np.float32)
    return targets, weights


def find_peaks(heatmaps: Floats) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Find each heatmap's maximum, moved by a quarter pixel towards its larger neighbour.

    The shift is made where 1 < x < W−1 and 1 < y < H−1. A heatmap without a positive value gives (0, 0).

    Args:
        heatmaps: N×K×H×W.

    Returns:
        N×K×2 (x, y) in heatmap pixels, and the maxima N×K float32.
    """
    count, joints, height, width = heatmaps.shape
    rows = heatmaps.reshape(count * joints, height * width)
    pixels = rows.reshape(-1)
    best = rows.argmax(axis=1)
    index = best + np.arange(0, pixels.size, height * width)
    maxima = pixels[index]
    best *= maxima > 0
    y = best // width
    x = best - y * width

    points = np.empty((count * joints, 2))
    points[:, 0], points[:, 1] = x, y
    shifted = np.flatnonzero((x > 1) & (x < width - 1) & (y > 1) & (y < height - 1))
    index = index[shifted]
    points[shifted, 0] += _QUARTER * np.sign(pixels[index + 1] - pixels[index - 1])
    points[shifted, 1] += _QUARTER * np.sign(pixels[index + width] - pixels[index - width])
    return points.reshape(count, joints, 2), maxima.reshape(count, joints).astype(np.float32)


def flip_back(heatmaps: NDArray[np.float32], flip_pairs: Iterable[tuple[int, int]]) -> NDArray[np.float32]:
    """Turn the heatmaps of mirrored crops, N×J×h×w, into those of the crops themselves.

    Left and right joints swap, and all maps move one pixel to the right, where the first column stays: the published
    figures of Simple Baselines are made so (SHIFT_HEATMAP), because a network's maps of an image and of its mirror
    image are about a pixel apart.
    """
    order = np.arange(heatmaps.shape[1])
    for left, right in flip_pairs:
        order[[left, right]] = right, left
    flipped: NDArray[np.float32] = heatmaps[:, order, :, ::-1]
    return np.concatenate([flipped[..., :1], flipped[..., :-1]], axis=-1)


def decode_heatmaps(
    heatmaps: Floats, centers: ArrayLike, scales: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read the joints of each person from its heatmaps.

    Every peak goes through the inverse of the crop, taken at the heatmap's own size; that includes the (0, 0) of a
    heatmap without a positive value, as in the reference.

    Args:
        heatmaps: N×K×H×W.
        centers: N×2, the centre of each person's crop in image pixels.
        scales: N×2, the scale of each person's crop in units of 200 pixels.

    Returns:
        Joints N×K×2 float32, (x, y) in image pixels, and scores N×K float32: the heatmaps' maxima.
    """
    if heatmaps.ndim != 4:
        raise ValueError(f"heatmaps must be N×K×H×W, not {heatmaps.shape}")
    points, maxima = find_peaks(heatmaps)
    return from_crops(points, (heatmaps.shape[3], heatmaps.shape[2]), centers, scales), maxima
