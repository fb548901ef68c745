"""The picture of mixed precision: how far joints move against what float costs, and where the choice lies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpe_tasks.records.mixed_precision import MixedPrecision, PrecisionPoint
from hpe_tasks.report.charts import Tick

_LEFT, _RIGHT, _TOP, _BOTTOM = 7.0, 97.0, 7.0, 86.0
"""The plot's edges in percent of the picture: labels stand outside."""

_SHOWN_EFFECTS = 12
_STEPS = 5


@dataclass(frozen=True)
class PlottedPoint:
    """One file; positions in percent of the picture."""

    x: float
    y: float
    chosen: bool
    label: str


@dataclass(frozen=True)
class EffectRow:
    """One activation: its layer, and what quantizing it alone does; `length` in percent of the longest."""

    layer: str
    operator: str
    error: str
    length: float
    left_float: bool


@dataclass(frozen=True)
class PrecisionPlot:
    """The curve, the most harmful activations, and what was chosen, in words.

    Attributes:
        limit_x: The budget.
        fp32_x: FP32's time; None where it lies outside.
    """

    points: tuple[PlottedPoint, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    limit_x: float | None
    fp32_x: float | None
    effects: tuple[EffectRow, ...]
    chosen: str
    layers: tuple[str, ...]
    caption: str


def precision_plot(mixed: MixedPrecision | None) -> PrecisionPlot | None:
    """Lay out the choice; None where the recipe asked for none."""
    if mixed is None:
        return None
    chosen = mixed.curve[mixed.chosen]
    fp32 = chosen.slowdown / chosen.of_fp32
    most_slow = max([*(point.slowdown for point in mixed.curve), fp32, min(mixed.max_slowdown, 2.0)])
    least_slow = min([*(point.slowdown for point in mixed.curve), fp32])
    x_low, x_high, x_step = _axis(least_slow, most_slow)
    _, y_high, y_step = _axis(0.0, max(0.01, *(point.joint_error for point in mixed.curve)))

    def x_of(value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (value - x_low) / (x_high - x_low), 2)

    def y_of(value: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * value / y_high, 2)

    return PrecisionPlot(
        points=tuple(
            PlottedPoint(x_of(point.slowdown), y_of(point.joint_error), index == mixed.chosen, _told(point))
            for index, point in enumerate(mixed.curve)
        ),
        x_ticks=tuple(
            Tick(f"{x_low + i * x_step:.{_decimals(x_step)}f}×", x_of(x_low + i * x_step))
            for i in range(round((x_high - x_low) / x_step) + 1)
        ),
        y_ticks=tuple(
            Tick(f"{i * y_step:.{_decimals(y_step)}f}", y_of(i * y_step)) for i in range(round(y_high / y_step) + 1)
        ),
        limit_x=x_of(mixed.max_slowdown) if mixed.max_slowdown <= x_high else None,
        fp32_x=x_of(fp32),
        effects=_effects(mixed),
        chosen=_chosen(mixed, chosen),
        layers=chosen.float_layers,
        caption=(
            f"{mixed.evaluations} choices on {mixed.images} calibration images in {mixed.seconds:,.0f} s; times with "
            f"{mixed.threads} {'thread' if mixed.threads == 1 else 'threads'} in one interleaved run. "
            f"Joint error: what is lost of the joints' similarity with FP32's, from 0 to 1; with every activation in "
            f"float it is {mixed.float_error:.3f}, which is what 8-bit weights cost."
        ),
    )


def _told(point: PrecisionPoint) -> str:
    return (
        f"{point.float_tensors} in float: joint error {point.joint_error:.3f}, {point.slowdown:.2f}× the time of int8 "
        f"throughout, {point.of_fp32:.2f}× FP32's, {100 * point.int8_mac_share:.0f} % of the arithmetic in int8"
    )


def _chosen(mixed: MixedPrecision, point: PrecisionPoint) -> str:
    if not mixed.chosen:
        return "Nothing is left in float: int8 throughout moves the joints hardly more than 8-bit weights do."
    count = f"{point.float_tensors} {'activation' if point.float_tensors == 1 else 'activations'}"
    return (
        f"{count} left in float: joint error {point.joint_error:.3f} instead of {mixed.int8_error:.3f}, at "
        f"{point.slowdown:.2f} times the time of int8 throughout ({point.of_fp32:.2f} times FP32's, allowed "
        f"{mixed.max_slowdown:g} times int8's), {100 * point.int8_mac_share:.0f} % of the arithmetic in int8."
    )


def _effects(mixed: MixedPrecision) -> tuple[EffectRow, ...]:
    shown = mixed.effects[:_SHOWN_EFFECTS]
    longest = max((each.joint_error for each in shown), default=0.0) or 1.0
    off = set(mixed.left_float)
    return tuple(
        EffectRow(
            layer=each.layer,
            operator=each.operator,
            error=f"{each.joint_error:.3f}",
            length=round(100 * max(each.joint_error, 0.0) / longest, 1),
            left_float=bool(off & set(each.tensors)),
        )
        for each in shown
    )


def _axis(low: float, high: float) -> tuple[float, float, float]:
    """The smallest range with round ends that holds both, and its step."""
    reach = max(high - low, 0.05)
    step = 10.0 ** math.floor(math.log10(reach))
    while reach / step > _STEPS:
        step *= 2
    while reach / step < _STEPS / 2:
        step /= 2
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step + 0.05) * step, step


def _decimals(step: float) -> int:
    text = f"{step:.6f}".rstrip("0")
    return min(len(text.partition(".")[2]), 3)
