"""Which rung of the ladder is taken, by what the rungs have come to."""

from __future__ import annotations

from typing import Any

import pytest

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.gate.choice import best_passing, closest
from hpe_tasks.records.comparison import PartDifference
from hpe_tasks.records.execution import Latency, LatencyComparison, SpeedUp
from hpe_tasks.records.ladder import TriedRung

NOISE = 0.002
"""Losses that differ by no more cannot be told apart here."""


def told_apart(one: TriedRung, other: TriedRung) -> bool:
    return abs((one.loss or 0.0) - (other.loss or 0.0)) > NOISE


def rung(name: str, loss: float | None, speed: float | None = 3.0, state: Any = "passed") -> TriedRung:
    change = None if loss is None else PartDifference(part="all", before=0.7, after=0.7 - loss)
    return TriedRung(
        rung=name, recipe=QuantizationRecipe(), state=state, change=change, latency=speed and at(speed), seconds=1.0
    )


def at(speed: float) -> LatencyComparison:
    """So many times as fast as FP32, within 5 %."""
    time = Latency(median_ms=1.0, p95_ms=1.0, runs=9)
    one = SpeedUp(
        threads=1, fp32=time, onnx=time, ratio=speed, ratio_low=0.95 * speed, ratio_high=1.05 * speed, pairs=9
    )
    return LatencyComparison(
        speed_ups=(one,), input_shape=(1, 3, 64, 64), onnxruntime_version="1", processor="", cpu_features=()
    )


LADDERS = [
    pytest.param([rung("a", 0.01), rung("b", 0.005)], "b", id="the smallest loss"),
    pytest.param([rung("a", 0.01), rung("b", 0.0, state="refused")], "a", id="of those that pass"),
    pytest.param([rung("a", 0.004, 3.0), rung("b", 0.003, 2.0)], "a", id="as accurate and faster"),
    pytest.param([rung("a", 0.01, 3.0), rung("b", 0.003, 2.0)], "b", id="faster, but less accurate"),
    pytest.param([rung("a", 0.004, 3.1), rung("b", 0.003, 3.0)], "b", id="faster by less than noise"),
    pytest.param([rung("a", 0.003), rung("b", 0.003)], "a", id="equal: the cheaper"),
    pytest.param([rung("a", 0.004), rung("b", 0.003, None)], "a", id="of one the speed is not known"),
    pytest.param([rung("a", 0.02, state="refused"), rung("b", None, None, "impossible")], None, id="none passes"),
    pytest.param([], None, id="none"),
]


@pytest.mark.parametrize(("tried", "best"), LADDERS)
def test_the_best_that_passes(tried: list[TriedRung], best: str | None) -> None:
    found = best_passing(tried, told_apart)
    assert (found.rung if found else None) == best


def test_without_one_that_passes_the_closest_is_what_gate_and_report_are_about() -> None:
    tried = [
        rung("a", 0.03, state="refused"),
        rung("b", 0.02, state="inconclusive"),
        rung("c", None, state="refused"),
        rung("d", None, None, "impossible"),
    ]
    found = closest(tried)
    assert found is not None
    assert found.rung == "b"
    assert closest(tried[3:]) is None
