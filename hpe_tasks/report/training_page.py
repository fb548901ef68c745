"""The curves of a training, as one HTML file without network access and as a part of other pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpe_tasks.records.training_curves import HIGHEST, LOWEST, CurvePoint, StageCurves
from hpe_tasks.report.charts import Tick
from hpe_tasks.report.templating import templates_for

_LOGARITHMIC_FROM = 20.0
"""Largest over smallest value from which an axis has a power of ten for each part."""

_HEADROOM = 1.06
_DRAWN = 400
"""Points of a line at most: more than a chart has pixels for."""


@dataclass(frozen=True)
class CurveLine:
    """A line of a chart: points as SVG has them, in percent; the upper end of the picture is y = 0."""

    style: str
    points: str


@dataclass(frozen=True)
class CurveChart:
    """Figures by step; positions in percent.

    Attributes:
        title: What is drawn.
        lines: The lines, the last on top.
        steps: Ticks of the horizontal axis.
        values: Ticks of the vertical axis.
        taken_up: Where on the horizontal axis a killed training went on.
        note: What it came to, in a few words.
    """

    title: str
    lines: tuple[CurveLine, ...]
    steps: tuple[Tick, ...]
    values: tuple[Tick, ...]
    taken_up: tuple[float, ...]
    note: str


@dataclass(frozen=True)
class StageView:
    """What the page shows of one stage."""

    title: str
    state: str
    charts: tuple[CurveChart, ...]
    ranges: tuple[CurveChart, ...]
    settings: tuple[tuple[str, Any], ...]


def training_page(stages: Sequence[StageCurves]) -> str:
    """The page of a training, done or not."""
    return templates_for().get_template("training.html.j2").render(stages=training_view(stages))


def training_view(stages: Sequence[StageCurves]) -> tuple[StageView, ...]:
    """What the fragment `training_curves.html.j2` shows as `stages`."""
    return tuple(_stage(stage, number, len(stages)) for number, stage in enumerate(stages, start=1))


def _stage(stage: StageCurves, number: int, count: int) -> StageView:
    told = stage.settings
    size = f"{told.get('input_width', '?')}×{told.get('input_height', '?')}"
    title = f"{told.get('architecture', 'Network')}, input {size}"
    return StageView(
        title=f"Stage {number} of {count}: {title}" if count > 1 else title,
        state=_state(stage),
        charts=tuple(_charts(stage)),
        ranges=tuple(_ranges(stage)),
        settings=tuple((name, value) for name, value in sorted(told.items()) if value is not None),
    )


def _state(stage: StageCurves) -> str:
    told = f"{stage.done:,} of {stage.steps:,} steps"
    if stage.taken_up:
        places = ", ".join(f"{step:,}" for step in stage.taken_up)
        told += f", taken up again after step {places}"
    if stage.result is None:
        return told
    return f"{told}, {'done' if stage.done >= stage.steps else 'ended there'}"


def _charts(stage: StageCurves) -> Iterator[CurveChart]:
    by_step = _series(stage.points)
    by_epoch = _series(stage.epochs)
    if loss := by_step.get("loss"):
        means = by_epoch.get("loss", [])
        note = f"{loss[0][1]:.3g} at first, {(means or loss)[-1][1]:.3g} {'in the last epoch' if means else 'now'}"
        yield _chart(stage, "Loss", (("faint", loss), ("line", means)), note)
    if ap := by_epoch.get("ap"):
        best = max(ap, key=lambda at: at[1])
        note = f"{ap[-1][1]:.3f} at last; the best is {best[1]:.3f}, after step {best[0]:,}"
        yield _chart(stage, "AP on the validation split", (("line", ap),), note, axis=_ValueAxis.close)
    if rate := by_step.get("learning_rate"):
        note = f"{rate[-1][1]:.2g} at last"
        yield _chart(stage, "Learning rate", (("line", rate),), note, axis=_ValueAxis.linear)
    if norm := by_step.get("gradient_norm"):
        yield _chart(stage, "Gradient norm", (("line", norm),), f"{norm[-1][1]:.3g} at last")
    if speed := by_step.get("examples_per_s"):
        middle = sorted(value for _, value in speed)[len(speed) // 2]
        yield _chart(stage, "Examples per second", (("line", speed),), f"median {middle:,.3g}", axis=_ValueAxis.linear)


def _ranges(stage: StageCurves) -> Iterator[CurveChart]:
    by_epoch = _series(stage.epochs)
    for name, high in by_epoch.items():
        if not name.startswith(HIGHEST):
            continue
        layer = name.removeprefix(HIGHEST)
        low = by_epoch.get(LOWEST + layer, [])
        if low:
            note = f"{low[-1][1]:.3g} to {high[-1][1]:.3g} at last"
            yield _chart(stage, layer, (("line", low), ("line", high)), note, axis=_ValueAxis.linear)


Series = list[tuple[int, float]]


def _series(points: Iterable[CurvePoint]) -> dict[str, Series]:
    """Each figure's (step, value) in the order of the steps; of a step that was told twice the last counts."""
    told: dict[str, dict[int, float]] = {}
    for point in points:
        for name, value in point.figures.items():
            told.setdefault(name, {})[point.step] = value
    return {name: sorted(values.items()) for name, values in told.items()}


def _chart(
    stage: StageCurves,
    title: str,
    lines: Sequence[tuple[str, Series]],
    note: str,
    *,
    axis: Callable[[float, float], _ValueAxis] | None = None,
) -> CurveChart:
    values = [value for _, series in lines for _, value in series]
    low, high = min(values), max(values)
    if axis is None:
        axis = _ValueAxis.logarithmic if low > 0 and high / low > _LOGARITHMIC_FROM else _ValueAxis.linear
    scale = axis(low, high)
    last = max(stage.steps, stage.done, 1)

    def place(step: int, value: float) -> str:
        return f"{100 * step / last:.2f},{scale.position(value):.2f}"

    return CurveChart(
        title=title,
        lines=tuple(
            CurveLine(style, " ".join(place(*at) for at in _thinned(series))) for style, series in lines if series
        ),
        steps=tuple(Tick(f"{step:,}", round(100 * step / last, 2)) for step in dict.fromkeys((0, last // 2, last))),
        values=scale.ticks,
        taken_up=tuple(round(100 * step / last, 2) for step in stage.taken_up),
        note=note,
    )


def _thinned(series: Series) -> Series:
    """At most so many points, each a mean over neighbours."""
    width = -(-len(series) // _DRAWN)
    if width == 1:
        # A line needs two ends.
        return series if len(series) > 1 else [series[0], series[0]]
    parts = (series[i : i + width] for i in range(0, len(series), width))
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


@dataclass(frozen=True)
class _ValueAxis:
    """A vertical axis; positions in percent from the top."""

    low: float
    high: float
    ticks: tuple[Tick, ...]
    log: bool = False

    @classmethod
    def linear(cls, low: float, high: float) -> _ValueAxis:
        """From zero, or from below where there are negative values."""
        bottom, top = min(0.0, low * _HEADROOM), max(0.0, high * _HEADROOM)
        return cls._between(bottom, top if top > bottom else bottom + 1.0)

    @classmethod
    def close(cls, low: float, high: float) -> _ValueAxis:
        """Around the values: one looks for the differences."""
        room = max(0.1 * (high - low), 0.01)
        return cls._between(low - room, high + room)

    @classmethod
    def _between(cls, bottom: float, top: float) -> _ValueAxis:
        step = _round_step((top - bottom) / 4.5)
        marks = [i * step for i in range(math.ceil(bottom / step), math.floor(top / step) + 1)]
        axis = cls(bottom, top, ())
        return cls(bottom, top, tuple(Tick(f"{mark:.4g}", round(axis.position(mark), 2)) for mark in marks))

    @classmethod
    def logarithmic(cls, low: float, high: float) -> _ValueAxis:
        """From one power of ten to another."""
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        axis = cls(10.0**first, 10.0**last, (), log=True)
        every = max(1, -(-(last - first) // 4))
        marks = [10.0**power for power in range(first, last + 1, every)]
        ticks = tuple(Tick(f"{mark:.0e}" if mark < 1e-3 else f"{mark:g}", axis.position(mark)) for mark in marks)
        return cls(axis.low, axis.high, ticks, log=True)

    def position(self, value: float) -> float:
        if self.log:
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(value)
        else:
            low, high = self.low, self.high
        return 100 * (1 - (value - low) / (high - low))


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))
