from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpe_tasks.onnx_runtime.kernel_model import PHASE_TAPS, arm64_margin, kernel_order, x86_margin
from hpe_tasks.quantization.weight_grid import Layer, fit_grid

LAYERS = {
    "even channels": ((8, 6, 3, 3), Layer("conv", 0)),
    "odd channels": ((8, 3, 3, 3), Layer("conv", 0)),
    "pointwise": ((8, 5, 1, 1), Layer("conv", 0)),
    "matrix": ((8, 6), Layer("conv", 0)),
    "matrix, channels last": ((6, 8), Layer("conv", 1)),
    "four phases": ((6, 8, 4, 4), Layer("phases", 1)),
    "four phases, odd channels": ((5, 7, 4, 4), Layer("phases", 1)),
    "depthwise": ((8, 1, 3, 3), Layer("free", 0)),
    "float": ((6, 8, 3, 3), Layer("free", 1)),
}


def heavy_tailed(shape: tuple[int, ...]) -> np.ndarray:
    """Weights as trained layers have them: many small ones and a few large."""
    return np.random.default_rng(0).standard_t(3, size=shape).astype(np.float32)


def calibrated(weight: np.ndarray, layer: Layer, *, per_channel: bool) -> np.ndarray:
    others = tuple(axis for axis in range(weight.ndim) if axis != layer.channel_axis)
    largest = np.abs(weight).max(axis=others if per_channel else None)
    return np.atleast_1d(largest / 127)


def rows_of(values: np.ndarray, layer: Layer) -> list[np.ndarray]:
    """Each matrix that a kernel is given, written here without the product's own views."""
    if layer.kind == "phases":
        return [
            kernel_order(values[:, :, list(rows)][:, :, :, list(columns)].swapaxes(0, 1))
            for rows in PHASE_TAPS
            for columns in PHASE_TAPS
        ]
    return [kernel_order(np.moveaxis(values, layer.channel_axis, 0))]


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("zero_point", [0, 17], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize(("shape", "layer"), LAYERS.values(), ids=LAYERS)
def test_no_sum_of_the_codes_can_be_clipped(
    shape: tuple[int, ...], layer: Layer, zero_point: int, per_channel: bool
) -> None:
    weight = heavy_tailed(shape)
    step = calibrated(weight, layer, per_channel=per_channel)
    grid = fit_grid(weight, step, np.full(len(step), zero_point), layer)
    assert (grid.values.shape, grid.scale.shape) == (weight.shape, step.shape)
    assert ((grid.scale >= 0.999 * step) & (grid.scale <= 2.001 * step)).all()
    along = [1] * weight.ndim
    along[layer.channel_axis] = -1
    codes = grid.values / grid.scale.reshape(along) + grid.zero_point.reshape(along)
    np.testing.assert_allclose(codes, np.rint(codes), atol=1e-3)
    for rows in rows_of(np.rint(codes).astype(np.int64), layer):
        assert -127 <= rows.min() <= rows.max() <= 127
        assert x86_margin(rows, depthwise=layer.kind == "free").min() >= 0
        assert arm64_margin(rows).min() >= 0


def test_a_channel_whose_pairs_fit_keeps_its_step() -> None:
    weight = np.array([[1.0, 0.003, -0.5, 0.25], [1.0, 0.9, 0.8, 0.7]], np.float32)
    step = np.array([1 / 127, 1 / 127])
    grid = fit_grid(weight, step, np.zeros(2), Layer("conv", 0))
    assert grid.scale[0] == step[0]
    assert grid.scale[1] > step[1]
    assert np.abs(grid.values[0] - weight[0]).max() <= step[0] / 2 + 1e-6


def test_the_grid_loses_less_than_one_bit_would() -> None:
    weight = heavy_tailed((64, 32, 3, 3))
    layer = Layer("conv", 0)
    step = calibrated(weight, layer, per_channel=True)
    grid = fit_grid(weight, step, np.zeros(len(step)), layer)
    coarse = 2 * step.reshape(-1, 1, 1, 1)
    seven_bits = np.rint(weight / coarse) * coarse
    error, of_seven = (float(np.square(values - weight).sum()) for values in (grid.values, seven_bits))
    assert error < 0.6 * of_seven


def test_both_weights_of_a_pair_that_is_too_large_give_way_alike() -> None:
    weight = np.array([[1.0, 0.2, *[i % 5 / 127 for i in range(2000)]]], np.float32)
    grid = fit_grid(weight, np.array([1 / 127]), np.zeros(1), Layer("conv", 0))
    errors = (weight - grid.values)[0, :2] / grid.scale
    assert grid.scale < 1.1 / 127
    assert errors[0] > 5
    assert abs(errors[0] - errors[1]) <= 1


def test_weights_of_zero_stay_zero() -> None:
    grid: Any = fit_grid(np.zeros((2, 4), np.float32), np.full(2, 1e-8), np.zeros(2), Layer("conv", 0))
    assert not grid.values.any()
