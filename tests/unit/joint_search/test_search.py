"""The order of activations and the choice among them, on noises whose sum decides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from hpe_tasks.errors import QuantizationError
from hpe_tasks.joint_search.precision import Budget, _choose, _counts
from hpe_tasks.joint_search.search import MOST_GROUPS, Harm, Order, find_order
from hpe_tasks.onnx_export.float_activations import Activation, with_floats
from hpe_tasks.records.mixed_precision import PrecisionPoint


def activation(index: int, *touching: str) -> Activation:
    return Activation((f"t{index}",), (f"t{index}",), "Conv", f"layer{index}", frozenset(touching))


def separate(count: int) -> list[Activation]:
    return [activation(index, f"a{index}", f"b{index}") for index in range(count)]


class Noises:
    """Noises of activations add up; joints stay where they are until there is much of it, and then are lost."""

    def __init__(self, noises: Sequence[float], weights: float = 0.05) -> None:
        self.noises = noises
        self.weights = weights
        self.asked = 0

    def __call__(self, floats: frozenset[int]) -> tuple[float, float]:
        self.asked += 1
        noise = self.weights + sum(each for index, each in enumerate(self.noises) if index not in floats)
        return 1 / (1 + math.exp(6 - 4 * noise)), noise


@pytest.mark.parametrize(
    ("noises", "needed"),
    [
        pytest.param([0.01] * 12, set(), id="nothing-to-win"),
        pytest.param([0.01] * 5 + [3.0] + [0.01] * 6, {5}, id="one"),
        pytest.param([0.002] * 30 + [0.6] * 4 + [0.002] * 30, {30, 31, 32, 33}, id="four-that-alone-win-nothing"),
        pytest.param([0.001] * 200 + [2.0, 1.0] + [0.001] * 233, {200, 201}, id="more-than-are-judged-alone"),
    ],
)
def test_what_harms_is_found_and_nothing_else_stays_float(noises: list[float], needed: set[int]) -> None:
    evaluate = Noises(noises)
    order = find_order(separate(len(noises)), evaluate)
    found = {index for harm in order.needed for index in harm.activations}
    assert found == needed or (len(needed) == 4 and found < needed and len(found) >= 3)
    assert sorted(index for harm in order.harms for index in harm.activations) == list(range(len(noises)))
    assert order.evaluations == evaluate.asked <= MOST_GROUPS + 2 + 60


def test_one_float_alone_would_not_have_told() -> None:
    """Why activations are judged beside float ones: all others quantized, each of the four changes next to nothing."""
    noises = [0.002] * 30 + [0.6] * 4 + [0.002] * 30
    evaluate = Noises(noises)
    lost = evaluate(frozenset())[0]
    assert all(lost - evaluate(frozenset({index}))[0] < 0.2 for index in range(len(noises)))
    assert lost - evaluate(frozenset({30, 31, 32, 33}))[0] > 0.6


def test_what_is_quantized_between_float_neighbours_becomes_float() -> None:
    """A sigmoid between a layer's result and their product: with both in float its codes help no kernel."""
    layer, sigmoid, product, other = (
        activation(0, "conv", "sigmoid", "mul"),
        activation(1, "sigmoid", "mul"),
        activation(2, "mul", "next"),
        activation(3, "next", "last"),
    )
    assert with_floats([layer, sigmoid, product, other], {0, 2}) == {0, 1, 2}
    assert with_floats([layer, sigmoid, product, other], {3}) == {3}


def point(count: int, error: float, slowdown: float, of_fp32: float = 0.8, share: float = 0.7) -> PrecisionPoint:
    return PrecisionPoint(
        float_tensors=count,
        float_layers=(),
        left_float=(),
        joint_error=error,
        slowdown=slowdown,
        of_fp32=of_fp32,
        int8_mac_share=share,
    )


def order_of(needed: int) -> Order:
    harms = tuple(Harm((index,), 0.1, 0.1) for index in range(needed))
    return Order(harms, harms, 0.5, 0.02, 10)


CURVE = [
    point(0, 0.5, 1.0),
    point(2, 0.2, 1.1, share=0.8),
    point(4, 0.06, 1.2),
    point(8, 0.03, 1.6),
    point(9, 0.02, 1.9, 1.3),
]


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        pytest.param(Budget(2.0), 2, id="the-knee"),
        pytest.param(Budget(1.15), 1, id="what-the-budget-allows"),
        pytest.param(Budget(9.0, 1.2), 2, id="faster-than-fp32"),
        pytest.param(Budget(9.0, None, 0.75), 1, id="enough-of-it-in-int8"),
    ],
)
def test_the_fastest_of_the_good_ones_is_chosen(budget: Budget, chosen: int) -> None:
    assert _choose(CURVE, order_of(9), budget) == chosen


@pytest.mark.parametrize(
    ("budget", "named"),
    [
        pytest.param(Budget(1.05), "recipe.max_slowdown 1.05:", id="budget"),
        pytest.param(Budget(2.0, 2.0), "gate.min_speedup 2:", id="speed"),
        pytest.param(Budget(2.0, None, 0.95), "gate.min_int8_mac_share 0.95:", id="share"),
    ],
)
def test_a_budget_that_nothing_meets_is_said(budget: Budget, named: str) -> None:
    with pytest.raises(QuantizationError, match=named) as caught:
        _choose(CURVE, order_of(9), budget)
    assert "1.10 times" in caught.value.message
    assert "max_slowdown" in caught.value.hint


@pytest.mark.parametrize(
    ("needed", "counts"), [(0, [0]), (1, [0, 1]), (3, [0, 1, 2, 3]), (40, [0, 2, 6, 11, 17, 24, 32, 40])]
)
def test_points_are_closer_where_few_are_float(needed: int, counts: list[int]) -> None:
    assert _counts(needed) == counts
