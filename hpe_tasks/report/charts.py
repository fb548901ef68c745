"""Geometry of the report's charts: numbers become positions in percent, which the template turns into SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hpe_tasks.gate.accuracy import UNITS, Metric
from hpe_tasks.records.gate import GateCheck


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis, in percent of its length."""

    label: str
    x: float


@dataclass(frozen=True)
class DotRow:
    """One joint group: accuracy before and after quantization, with positions on the axis; None for no data."""

    label: str
    before: float | None
    after: float | None
    before_x: float | None
    after_x: float | None

    @property
    def change(self) -> float | None:
        """Accuracy after minus accuracy before."""
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def span(self) -> tuple[float, float] | None:
        """Left and right end of the line between the two dots."""
        if self.before_x is None or self.after_x is None:
            return None
        return min(self.before_x, self.after_x), max(self.before_x, self.after_x)


@dataclass(frozen=True)
class DotPlot:
    """Accuracy by joint group. The axis covers the values, not 0 to the maximum: one looks for the differences."""

    rows: tuple[DotRow, ...]
    ticks: tuple[Tick, ...]


def dot_plot(before: Mapping[str, float | None], after: Mapping[str, float | None], metric: Metric) -> DotPlot | None:
    """Lay out the metric's figure by group before and after; None where no group has a value."""
    values = [v for v in (*before.values(), *after.values()) if v is not None]
    if not values:
        return None
    low, high, step = _nice_range(values, metric.maximum)

    def position(value: float | None) -> float | None:
        return None if value is None else round(100 * (value - low) / (high - low), 2)

    rows = []
    for group in dict.fromkeys((*before, *after)):
        old, new = before.get(group), after.get(group)
        rows.append(DotRow(group.replace("_", " "), old, new, position(old), position(new)))
    count = round((high - low) / step)
    decimals = 2 if metric.maximum == 1 else 0
    ticks = (Tick(f"{low + i * step:.{decimals}f}", round(100 * i / count, 2)) for i in range(count + 1))
    return DotPlot(tuple(rows), tuple(ticks))


def _nice_range(values: Iterable[float], maximum: float) -> tuple[float, float, float]:
    """The smallest range up to `maximum` with round ends that holds the values and has at most five steps."""
    values = list(values)
    for share in (0.02, 0.05, 0.1, 0.2):
        step = share * maximum
        low = max(0.0, math.floor(min(values) / step) * step)
        high = min(maximum, math.ceil(max(values) / step + 1e-9) * step)
        if high <= low:
            low = high - step
        if round((high - low) / step) <= 5:
            return low, high, step
    return 0.0, maximum, 0.2 * maximum


@dataclass(frozen=True)
class Bullet:
    """An observation against its limit; positions in percent of a bar whose allowed part is shaded."""

    observed_x: float | None
    limit_x: float
    allowed: tuple[float, float]


def bullet(check: GateCheck) -> Bullet:
    """Lay out one gate check."""
    observed, maximum = check.observed, UNITS[check.unit].maximum
    reach = max(check.limit, observed or 0.0)
    if check.comparison == "at_least" and reach <= maximum < math.inf:
        low, high = 0.0, maximum
    else:
        high = max(2 * check.limit, 1.15 * reach) or 1.0
        low = min(0.0, 1.15 * (observed or 0.0))
    limit_x = round(100 * (check.limit - low) / (high - low), 2)
    allowed = (limit_x, 100.0) if check.comparison == "at_least" else (0.0, limit_x)
    observed_x = round(100 * (observed - low) / (high - low), 2) if observed is not None else None
    return Bullet(observed_x, limit_x, allowed)
