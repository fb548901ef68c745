"""The arithmetic of the kernel model against plain loops; that kernels are as modelled is shown in integration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hpe_tasks.onnx_runtime.kernel_model import arm64_margin, kernel_order, pairs, x86_margin


def test_weights_are_counted_along_rows_columns_and_input_channels() -> None:
    weight = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    rows = kernel_order(weight)
    wanted = [[weight[o, c, y, x] for y in range(2) for x in range(2) for c in range(3)] for o in range(2)]
    assert rows.tolist() == wanted
    assert kernel_order(weight[:, :, 0, 0]).tolist() == weight[:, :, 0, 0].tolist()


def test_a_left_over_weight_is_paired_with_zero() -> None:
    assert pairs(np.array([[1, 2, 3]])).tolist() == [[[1, 2], [3, 0]]]


CODES = {
    "opposite signs": [127, -128],
    "just fits": [127, 1, 64, 64],
    "one too many": [127, 2, 0, 0],
    "negative, just fits": [-127, -1, -64, -64],
    "negative, one too many": [-65, -64, 1, 1],
    "neighbours of two pairs": [1, 127, 127, 1],
    "two smallest codes": [-128, 0, -128, 0],
    "one smallest code": [-128, 0, -127, 0],
    "one weight": [-128],
    "all zero": [0, 0],
}


@pytest.mark.parametrize("codes", CODES.values(), ids=CODES)
def test_margins_are_those_of_the_worst_activations(codes: list[int]) -> None:
    """Every extreme activation is tried against every pair that the kernels add."""
    row = np.array([codes], np.int8)
    padded = [*codes, 0] if len(codes) % 2 else codes
    x86 = [a * v + b * w for v, w in zip(padded[::2], padded[1::2], strict=True) for a in (0, 255) for b in (0, 255)]
    either = itertools.combinations([*codes, 0], 2)
    arm64 = [a * v + b * w for v, w in either for a in (-128, 127) for b in (-128, 127)]
    assert x86_margin(row, depthwise=False).item() == min(32767 - max(x86), min(x86) + 32768)
    assert arm64_margin(row).item() == min(32767 - max(arm64), min(arm64) + 32768)


def test_depthwise_sums_have_32_bits() -> None:
    codes = np.full((1, 9), 127, np.int8)
    assert x86_margin(codes, depthwise=True).item() == 2**31 - 1 - 9 * 127 * 255
    assert x86_margin(codes, depthwise=False).item() < 0


def test_a_sum_that_32_bits_do_not_hold_has_no_margin() -> None:
    codes = np.tile(np.array([64, 64], np.int8), (1, 70_000))
    assert x86_margin(codes, depthwise=False).item() < 0
