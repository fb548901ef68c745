"""8-bit weights whose products no int8 kernel can clip: the codes are chosen so that pairs of them stay in range.

Full 8-bit codes let kernels for x86-64 without VNNI clip sums of two products
(`hpe_tasks.onnx_runtime.kernel_model`). One bit less would prevent it, at twice the step. Here a channel keeps its
step where its pairs allow that. Elsewhere its step grows as far as it pays: each pair that is still too large gives
way, both weights by the same error, and of all steps the one with the least squared error is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.onnx_runtime.kernel_model import LARGEST_PAIR, PHASE_TAPS, SMALLEST_CODE, kernel_order

_LARGEST_CODE = 127
_GROWTH = np.linspace(1.0, 2.0, 41)
"""Steps that are tried, as multiples of the calibrated one; with twice the step (7 bits) no pair is too large."""


@dataclass(frozen=True)
class Grid:
    """Quantized weights: value = scale × (code − zero_point).

    Attributes:
        values: The weights on the grid, in the shape that they came in.
        scale: One for each output channel, or one.
        zero_point: Signed code of 0, as many.
    """

    values: NDArray[np.float32]
    scale: NDArray[np.float64]
    zero_point: NDArray[np.int64]


@dataclass(frozen=True)
class Layer:
    """How onnxruntime's kernels run through a layer's weights.

    Attributes:
        kind: `conv`: C_out × C_in/groups × height × width, or C_out × C_in; `phases`: C_in × C_out × 4 × 4 of a
            transposed convolution that is exported as four convolutions; `free`: sums have 32 bits, or are in float.
        channel_axis: Axis of the output channels.
    """

    kind: str
    channel_axis: int


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The quantized weights of a layer in a simulation of either backend.

    Attributes:
        name: Of the layer or the tensor.
        weight: Float weights, as they are now.
        scale: Calibrated step of each output channel, or one for all.
        zero_point: Signed code of 0, of each or of all; 0 for symmetric weights.
        layer: Where its output channels are, and which weights are paired.
        store: Puts other weights with their steps and codes of 0 into the simulation.
    """

    name: str
    weight: NDArray[np.float32]
    scale: NDArray[np.float64]
    zero_point: NDArray[np.int64]
    layer: Layer
    store: Callable[[Grid], None]

    def fitted(self, growth: NDArray[np.float64] = _GROWTH) -> Grid:
        """Step and codes as `fit_grid` chooses them."""
        return fit_grid(self.weight, self.scale, self.zero_point, self.layer, growth)

    def along_channels(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value for each output channel, or one for all, in a shape that goes with the weights."""
        shape = [1] * self.weight.ndim
        if values.size > 1:
            shape[self.layer.channel_axis] = values.size
        return values.reshape(shape)


def fit_grid(
    weight: NDArray[Any],
    scale: NDArray[Any],
    zero_point: NDArray[Any],
    layer: Layer,
    growth: NDArray[np.float64] = _GROWTH,
) -> Grid:
    """Choose step and codes of a layer's weights.

    Args:
        weight: Float weights.
        scale: Calibrated step of each output channel, or one for all.
        zero_point: Signed code of 0, of each or of all; 0 for symmetric weights.
        layer: Where its output channels are, and which weights are paired.
        growth: Steps that are tried, in rising order, as multiples of the calibrated one.
    """
    rows = _to_rows(weight.astype(np.float64), layer)
    channels = len(rows)
    flat = rows.reshape(channels, -1)
    per_channel = scale.size > 1
    step = np.broadcast_to(scale.astype(np.float64).reshape(-1), channels)
    zero = np.broadcast_to(zero_point.astype(np.int64).reshape(-1), channels)
    best_error, open_channels = np.full(channels, np.inf), np.ones(channels, bool)
    best = np.zeros_like(flat)
    best_step, best_zero = step.copy(), zero.copy()
    for factor in growth:
        tried, moved = step * factor, np.rint(zero / factor).astype(np.int64)
        exact = np.clip(rows / tried[:, None, None] + moved[:, None, None], SMALLEST_CODE, _LARGEST_CODE)
        codes = _codes(exact, layer.kind)
        values = (codes.reshape(flat.shape) - moved[:, None]) * tried[:, None]
        error = np.square(values - flat).sum(axis=1)
        gave_way = (codes != np.rint(exact)).any(axis=(1, 2))
        if not per_channel:
            error, gave_way = np.full(channels, error.sum()), np.full(channels, gave_way.any())
        better = open_channels & (error < best_error)
        best_error[better], best[better] = error[better], values[better]
        best_step[better], best_zero[better] = tried[better], moved[better]
        # A coarser grid may be better by chance; a channel that fits keeps the step that calibration gave it.
        open_channels &= gave_way | (factor > 1)
        if not open_channels.any():
            break
    count = channels if per_channel else 1
    return Grid(
        _from_rows(best.reshape(rows.shape), weight.shape, layer).astype(np.float32),
        best_step[:count],
        best_zero[:count],
    )


def kernel_rows(shape: tuple[int, ...], layer: Layer) -> NDArray[np.int64]:
    """Where the weights of each output channel lie in a layer's flattened tensor, in the order in which kernels add.

    Returns:
        Channels × phases × K: of the last axis, weights 2i and 2i + 1 are added first.
    """
    places = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    return np.ascontiguousarray(_to_rows(places, layer))


def _codes(exact: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """The nearest codes of channels × phases × K exact ones, with pairs kept in range."""
    codes = np.rint(exact)
    if kind == "free":
        return codes
    width = codes.shape[2] // 2 * 2
    for sign in (1.0, -1.0):
        first, second = (sign * codes[:, :, start:width:2] for start in (0, 1))
        excess = (first > 0) & (second > 0) & (first + second > LARGEST_PAIR)
        if not excess.any():
            continue
        a, b = (sign * exact[:, :, start:width:2] for start in (0, 1))
        # The nearest point on the line a + b = LARGEST_PAIR.
        given = np.clip(np.rint(a - (a + b - LARGEST_PAIR) / 2), 1, _LARGEST_CODE)
        codes[:, :, 0:width:2] = np.where(excess, sign * given, codes[:, :, 0:width:2])
        codes[:, :, 1:width:2] = np.where(excess, sign * (LARGEST_PAIR - given), codes[:, :, 1:width:2])
    return codes


def _to_rows(weight: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """Channels × phases × K in kernel order; one phase but for transposed convolutions."""
    if layer.kind == "phases":
        phases = [kernel_order(taps.swapaxes(0, 1)) for taps in _phases(weight)]
        return np.stack(phases, axis=1)
    moved = np.moveaxis(weight, layer.channel_axis, 0)
    return kernel_order(moved)[:, None] if moved.ndim > 1 else moved[:, None, None]


def _from_rows(rows: NDArray[Any], shape: tuple[int, ...], layer: Layer) -> NDArray[Any]:
    if layer.kind == "phases":
        weight = np.empty(shape)
        for index, taps in enumerate(_phases(weight)):
            height, width, inputs = taps.shape[2], taps.shape[3], shape[0]
            taps[...] = rows[:, index].reshape(shape[1], height, width, inputs).transpose(3, 0, 1, 2)
        return weight
    moved = [shape[layer.channel_axis], *(size for axis, size in enumerate(shape) if axis != layer.channel_axis)]
    channels_last = rows.reshape(moved[0], *moved[2:], moved[1])
    return np.moveaxis(np.moveaxis(channels_last, -1, 1), 0, layer.channel_axis)


def _phases(weight: NDArray[Any]) -> list[NDArray[Any]]:
    """Views of the 2×2 taps that each of the four phases of the output sees."""
    return [
        weight[:, :, rows[0] :: rows[1] - rows[0], columns[0] :: columns[1] - columns[0]]
        for rows in PHASE_TAPS
        for columns in PHASE_TAPS
    ]
