from __future__ import annotations

import numpy as np
import pytest
import torch

from hpe_tasks.onnx_runtime.kernel_model import LARGEST_PAIR, SMALLEST_CODE
from hpe_tasks.quantization.grid_limit import GridLimit
from hpe_tasks.quantization.weight_grid import Layer, LayerWeights, fit_grid, kernel_rows

LAYERS = {
    "convolution": (Layer("conv", 0), (6, 5, 3, 3), 6),
    "per tensor": (Layer("conv", 0), (6, 5, 3, 3), 1),
    "matrix": (Layer("conv", 1), (7, 6), 6),
    "four phases": (Layer("phases", 1), (5, 6, 4, 4), 6),
    "depthwise": (Layer("free", 0), (6, 1, 3, 3), 6),
}


@pytest.mark.parametrize(("layer", "shape", "scales"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("zero", [0, 9])
def test_weights_that_moved_keep_their_steps_on_the_grid(
    layer: Layer, shape: tuple[int, ...], scales: int, zero: int
) -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(size=shape).astype(np.float32)
    step = np.full(scales, np.abs(weight).max() / 127)
    first = fit_grid(weight, step, np.full(scales, zero), layer)
    moved = torch.from_numpy(first.values) + torch.from_numpy(rng.normal(size=shape).astype(np.float32)) * 0.3
    on_grid = LayerWeights("layer", first.values, first.scale, first.zero_point, layer, lambda grid: None)
    limit = GridLimit(on_grid, torch.device("cpu"))
    kept = limit(moved)
    again = fit_grid(kept.numpy(), first.scale, first.zero_point, layer)
    np.testing.assert_array_equal(again.scale, first.scale)
    np.testing.assert_array_equal(again.zero_point, first.zero_point)
    # Half a step at most: they were rounded, and nothing gave way.
    codes = kept.numpy().reshape(-1)[kernel_rows(shape, layer)] / first.scale.reshape(-1, 1, 1)
    rounded = again.values.reshape(-1)[kernel_rows(shape, layer)] / first.scale.reshape(-1, 1, 1)
    assert np.abs(codes - rounded).max() < 0.501
    if layer.kind != "free":
        signed = np.rint(rounded) + first.zero_point.reshape(-1, 1, 1)
        assert signed.min() >= SMALLEST_CODE
        width = signed.shape[2] // 2 * 2
        pairs = signed[:, :, :width].reshape(*signed.shape[:2], -1, 2)
        alike = (pairs > 0).all(axis=3) | (pairs < 0).all(axis=3)
        assert np.abs(pairs.sum(axis=3))[alike].max() <= LARGEST_PAIR
        # Without the limit some would have had to give way.
        assert (limit(moved) != moved).any()
    torch.testing.assert_close(limit(kept), kept)
