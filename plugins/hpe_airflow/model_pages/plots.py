"""Geometry of the plots over versions, in units of their viewBox; templates turn it into SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hpe_tasks.catalogue.summaries import VersionSummary
from hpe_tasks.gate.accuracy import megabytes_text, metric_named
from hpe_tasks.report.records import milliseconds_text

Anchor = Literal["start", "middle", "end"]

WIDTH, HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 22, 18, 40
_LINE, _LETTER = 15, 7.5
"""Height of a name, and width of its letters."""
_MOST = 60
"""Versions in a plot: more would hide each other."""


@dataclass(frozen=True)
class Label:
    """A text at a place of an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Point:
    """One figure of a version."""

    version: str
    x: float
    y: float
    radius: float
    told: str
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Name:
    """A text beside a point, where no other one stands."""

    x: float
    y: float
    text: str
    anchor: Anchor


@dataclass(frozen=True)
class Series:
    """Figures that are of one kind; `path` leads through them."""

    kind: str
    label: str
    points: tuple[Point, ...]
    path: str


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        told: What it shows, for those who do not see it.
        names: The channels that serve a version, beside its int8 figure.
        left_out: How many versions it does not show, and why; empty where it shows all.
    """

    title: str
    told: str
    series: tuple[Series, ...]
    x_labels: tuple[Label, ...]
    y_labels: tuple[Label, ...]
    x_title: str
    left_out: str
    names: tuple[Name, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT


def accuracy_plot(versions: Sequence[VersionSummary]) -> Plot | None:
    """FP32 and int8 accuracy of a model's versions in the order of their publication; None without two of them."""
    shown, left_out = _comparable(versions)
    if len(shown) < 2:
        return None
    metric = metric_named(shown[0].metric) if shown[0].metric else None
    if metric is None:
        return None
    low, high, y_labels = _axis([v for row in shown for v in (row.fp32, row.int8) if v is not None], metric.text)
    xs = _spread(len(shown))
    series = []
    for kind, label in (("fp32", "FP32"), ("int8", "int8")):
        values = [getattr(row, kind) for row in shown]
        points = tuple(
            Point(row.version, x, _y(value, low, high), 5, f"{row.version}: {label} {metric.text(value)}", row.channels)
            for row, x, value in zip(shown, xs, values, strict=True)
            if value is not None
        )
        series.append(Series(kind, label, points, _path(points)))
    return Plot(
        title=f"{metric.name} over versions",
        told=f"{metric.name} of {len(shown)} versions, FP32 and int8",
        series=tuple(series),
        x_labels=_dates(shown, xs),
        y_labels=y_labels,
        x_title="published",
        left_out=left_out,
        names=_names(series[-1].points),
    )


def speed_plot(versions: Sequence[VersionSummary]) -> Plot | None:
    """Milliseconds of the versions' files in the order of their publication; None without two of them."""
    timed, left_out = _timed(versions)
    if len(timed) < 2:
        return None
    times = [row.speed.int8_ms for row in timed if row.speed]
    low, high, y_labels = _axis(times, milliseconds_text, zero=True)
    xs = _spread(len(timed))
    points = tuple(
        Point(row.version, x, _y(ms, low, high), 5, f"{row.version}: {milliseconds_text(ms)}", row.channels)
        for row, x, ms in zip(timed, xs, times, strict=True)
    )
    return Plot(
        title="Time of an image over versions",
        told=f"Milliseconds of {len(timed)} versions",
        series=(Series("int8", "int8, one thread", points, _path(points)),),
        x_labels=_dates(timed, xs),
        y_labels=y_labels,
        x_title="published",
        left_out=left_out,
        names=_names(points),
    )


def trade_off(versions: Sequence[VersionSummary]) -> Plot | None:
    """Accuracy against time, the circles' areas as the files' sizes; None without two versions that have all three."""
    timed, left_out = _timed([row for row in _comparable(versions)[0] if row.size_bytes])
    if len(timed) < 2 or timed[0].metric is None:
        return None
    metric = metric_named(timed[0].metric)
    low, high, y_labels = _axis([row.int8 for row in timed if row.int8 is not None], metric.text)
    first, last, x_labels = _axis([row.speed.int8_ms for row in timed if row.speed], milliseconds_text)
    largest = max(row.size_bytes or 1 for row in timed)
    points = []
    for row in timed:
        if row.speed is None or row.int8 is None or row.size_bytes is None:
            continue
        told = f"{row.version}: {metric.name} {metric.text(row.int8)}, {milliseconds_text(row.speed.int8_ms)}"
        x = _LEFT + (row.speed.int8_ms - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)
        radius = round(4 + 10 * math.sqrt(row.size_bytes / largest), 1)
        text = f"{told}, {megabytes_text(row.size_bytes)}"
        points.append(Point(row.version, round(x, 1), _y(row.int8, low, high), radius, text, row.channels))
    across = tuple(Label(_LEFT + _across(label.at) * (WIDTH - _LEFT - _RIGHT), label.text) for label in x_labels)
    return Plot(
        title=f"{metric.name}, time and size",
        told=f"{metric.name} against milliseconds of {len(points)} versions; larger circles are larger files",
        series=(Series("int8", "a version; larger is a larger file", tuple(points), ""),),
        x_labels=across,
        y_labels=y_labels,
        x_title="time of an image, one thread",
        left_out=left_out,
        names=_names(points),
    )


def _across(y: float) -> float:
    """Where a label of a vertical axis would stand on a horizontal one, from 0 to 1."""
    return 1 - (y - _TOP) / (HEIGHT - _TOP - _BOTTOM)


def _comparable(versions: Sequence[VersionSummary]) -> tuple[list[VersionSummary], str]:
    """The versions whose accuracy was measured like that of the last one, earliest first."""
    measured = [row for row in versions if row.int8 is not None and row.protocol is not None]
    alike = [row for row in measured if row.protocol == measured[0].protocol]
    told = _left_out(len(versions) - len(alike), "measured in another way") or _left_out(len(alike) - _MOST, "earlier")
    return alike[:_MOST][::-1], told


def _timed(versions: Sequence[VersionSummary]) -> tuple[list[VersionSummary], str]:
    """The versions that were timed on the processor of the last one, earliest first."""
    latest_first = sorted(versions, key=lambda row: row.published_at, reverse=True)
    timed = [row for row in latest_first if row.speed is not None]
    alike = [row for row in timed if row.speed and timed[0].speed and row.speed.processor == timed[0].speed.processor]
    told = _left_out(len(versions) - len(alike), "not timed on the same processor")
    return alike[:_MOST][::-1], told


def _names(points: Sequence[Point]) -> tuple[Name, ...]:
    """Channels' names beside their points, where neither a point nor another name stands as long as there is room."""
    placed: list[Name] = []
    for point in points:
        if not point.channels:
            continue
        places = tuple(_places(point, ", ".join(point.channels)))
        tried = [one for one in places if _inside(one)]
        free = [one for one in tried if not any(_overlap(one, two) for two in placed)]
        clear = [one for one in free if not any(_hides(one, other) for other in points)]
        placed.append((clear or free or tried or places)[0])
    return tuple(placed)


def _places(point: Point, text: str) -> Iterator[Name]:
    above, below = point.y - point.radius - 8, point.y + point.radius + 17
    anchors: tuple[Anchor, ...] = ("middle", "start", "end")
    yield from (Name(point.x, round(above, 1), text, anchor) for anchor in anchors)
    for step in range(16):
        for shift in (_LINE * step, -_LINE * step):
            y = round(point.y + 4 + shift, 1)
            yield Name(round(point.x + point.radius + 8, 1), y, text, "start")
            yield Name(round(point.x - point.radius - 8, 1), y, text, "end")
    yield from (Name(point.x, round(below, 1), text, anchor) for anchor in anchors)


def _inside(name: Name) -> bool:
    left, right = _ends(name)
    return left >= _LEFT and right <= WIDTH and _LINE <= name.y <= HEIGHT - _BOTTOM


def _overlap(one: Name, two: Name) -> bool:
    (left, right), (other_left, other_right) = _ends(one), _ends(two)
    return abs(one.y - two.y) < _LINE and left < other_right and other_left < right


def _hides(name: Name, point: Point) -> bool:
    left, right = _ends(name)
    reach = point.radius + 4
    across = left < point.x + reach and point.x - reach < right
    return across and name.y - 11 < point.y + reach and point.y - reach < name.y + 3


def _ends(name: Name) -> tuple[float, float]:
    width = _LETTER * len(name.text)
    left = name.x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[name.anchor]
    return left, left + width


def _left_out(count: int, why: str) -> str:
    return f"{count} {why}: not shown." if count > 0 else ""


def _spread(count: int) -> list[float]:
    return [round(_LEFT + 10 + i * (WIDTH - _LEFT - _RIGHT - 20) / max(1, count - 1), 1) for i in range(count)]


def _dates(rows: Sequence[VersionSummary], xs: Sequence[float]) -> tuple[Label, ...]:
    chosen = sorted({0, len(rows) // 2, len(rows) - 1}) if len(rows) > 4 else sorted({0, len(rows) - 1})
    return tuple(Label(xs[i], f"{rows[i].published_at:%Y-%m-%d}") for i in chosen)


def _axis(values: Sequence[float], text: object, *, zero: bool = False) -> tuple[float, float, tuple[Label, ...]]:
    """Ends of an axis that holds the values with some room, and its labels; `text` writes a value."""
    assert callable(text)
    low, high = (0.0 if zero else min(values)), max(values)
    room = (high - low) * 0.12 or abs(high) * 0.05 or 1.0
    low, high = (0.0 if zero else low - room), high + room
    steps = (low + (high - low) * i / 4 for i in range(5))
    return low, high, tuple(Label(_y(value, low, high), text(value)) for value in steps)


def _y(value: float, low: float, high: float) -> float:
    return round(_TOP + (high - value) / (high - low) * (HEIGHT - _TOP - _BOTTOM), 1)


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{'L' if i else 'M'}{point.x} {point.y}" for i, point in enumerate(points))
