"""The picture of a paired comparison: what each part gained or lost, how sure that is, and what it may lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hpe_tasks.gate.accuracy import Metric
from hpe_tasks.gate.paired import Outcome, outcome_of
from hpe_tasks.records.comparison import PairedComparison, PartDifference
from hpe_tasks.report.charts import Tick

Position = Callable[[float], float]

_SHOWN_KINDS = ("all", "size", "crowd", "group")
_MOST_TICKS = 6


@dataclass(frozen=True)
class IntervalRow:
    """One part: a dot with whiskers, and the line of its limit; positions in percent of the axis.

    Attributes:
        change: With its sign; the interval in `between`.
        kept: Share of the resamples that keep the limit; empty where nothing is asked.
        outcome: What it says about the limit; None without one.
    """

    label: str
    change: str
    between: str
    kept: str
    dot_x: float
    whiskers: tuple[float, float] | None
    limit_x: float | None
    outcome: Outcome | None


@dataclass(frozen=True)
class IntervalPlot:
    """All parts on one axis of changes, losses to the left.

    Attributes:
        zero_x: Where nothing has changed.
        caption: How the intervals were made.
    """

    rows: tuple[IntervalRow, ...]
    ticks: tuple[Tick, ...]
    zero_x: float
    caption: str


def interval_plot(
    comparison: PairedComparison | None, metric: Metric, *, caption: str | None = None
) -> IntervalPlot | None:
    """Lay out the judged figure, sizes or crowds, and groups of joints; None where nothing was compared.

    Args:
        comparison: What was compared.
        metric: What it was judged by.
        caption: How the intervals were made, where these are not FP32 and the exported file.
    """
    if comparison is None:
        return None
    kept = [part for part in comparison.parts if part.drop is not None and part.part.split("/")[0] in _SHOWN_KINDS]
    if not kept:
        return None
    labelled = [(metric.name if part.part == "all" else _label(part), part) for part in kept]
    return plot_of(labelled, metric, _caption(comparison) if caption is None else caption)


def plot_of(labelled: Sequence[tuple[str, PartDifference]], metric: Metric, caption: str) -> IntervalPlot:
    """Lay out differences, one or more that are known, each with what it is called."""
    low, high, step = _axis([part for _, part in labelled])

    def position(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    decimals = max(metric.unit.decimals, 0)
    rows = tuple(_row(label, part, decimals, position) for label, part in labelled)
    shown = max(0, -math.floor(math.log10(step) + 1e-9))
    count = round((high - low) / step)
    ticks = tuple(Tick(_signed(low + i * step, shown), position(low + i * step)) for i in range(count + 1))
    return IntervalPlot(rows, ticks, position(0.0), caption)


def _label(part: PartDifference) -> str:
    return part.part.partition("/")[2].replace("_", " ")


def _row(label: str, part: PartDifference, decimals: int, position: Position) -> IntervalRow:
    change = -(part.drop or 0.0)
    sure = part.low is not None and part.high is not None
    return IntervalRow(
        label=label,
        change=_signed(change, decimals),
        between=f"{_signed(part.low, decimals)} to {_signed(part.high, decimals)}" if sure else "",
        kept="" if part.probability is None else f"{100 * part.probability:.1f} %",
        dot_x=position(change),
        whiskers=(position(part.low), position(part.high)) if part.low is not None and part.high is not None else None,
        limit_x=None if part.limit is None else position(-part.limit),
        outcome=None if part.limit is None else outcome_of(part),
    )


def _axis(parts: Iterable[PartDifference]) -> tuple[float, float, float]:
    """The smallest range with round ends that holds intervals, limits and zero, and its step."""
    values = [0.0]
    for part in parts:
        values += [-(part.drop or 0.0), *(end for end in (part.low, part.high) if end is not None)]
        values += [] if part.limit is None else [-part.limit]
    low, high = min(values), max(values)
    reach = max(high - low, 1e-6)
    step = 10.0 ** math.floor(math.log10(reach))
    while reach / step > _MOST_TICKS - 1:
        step *= 2
    while reach / step < _MOST_TICKS / 2:
        step /= 2
    return math.floor(low / step - 0.1) * step, math.ceil(high / step + 0.1) * step, step


def _signed(value: float | None, decimals: int) -> str:
    if value is None:
        return "–"
    text = f"{abs(value):.{decimals}f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else '−'}{text}"


def _caption(comparison: PairedComparison) -> str:
    images = f"{comparison.num_images:,} images"
    if comparison.confidence is None:
        return f"FP32 and the exported file on the same {images}. No intervals were asked for."
    text = (
        f"{100 * comparison.confidence:g} % intervals of what the exported file gains or loses against FP32: paired "
        f"bootstrap over {images}, {comparison.resamples:,} resamples."
    )
    if len(comparison.looks) > 1:
        looks = ", ".join(f"{look.num_images:,}" for look in comparison.looks)
        text += f" Looked at after {looks} images; the error was shared among the looks."
    return text
