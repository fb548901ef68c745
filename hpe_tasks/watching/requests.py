"""What the function's log says of its requests, as one histogram for each statistic of an image."""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hpe_tasks.records.watch import Histogram, RequestStatistics

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114
"""Weights of the luma (ITU-R BT.601)."""

Line = Mapping[str, Any]


@dataclass(frozen=True)
class Statistic:
    """One number of each image that was answered.

    Attributes:
        edges: Of its histogram's bins. They are fine: the test joins them to about ten.
        of: Its value in a line of the log; None where the line has none.
    """

    name: str
    edges: tuple[float, ...]
    of: Callable[[Line], float | None]


def _evenly(low: float, high: float, bins: int) -> tuple[float, ...]:
    return tuple(round(low + (high - low) * index / bins, 6) for index in range(1, bins))


def _number(line: Line, name: str) -> float | None:
    value = line.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _brightness(line: Line) -> float | None:
    mean = _mean(line)
    return None if mean is None else _RED * mean[0] + _GREEN * mean[1] + _BLUE * mean[2]


def _warmth(line: Line) -> float | None:
    mean = _mean(line)
    return None if mean is None else mean[0] - mean[2]


def _mean(line: Line) -> tuple[float, float, float] | None:
    value = line.get("image_mean")
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(one, int | float) for one in value):
        return None
    return float(value[0]), float(value[1]), float(value[2])


def _megapixels(line: Line) -> float | None:
    width, height = _number(line, "width"), _number(line, "height")
    return None if not width or not height else width * height / 1e6


def _aspect(line: Line) -> float | None:
    width, height = _number(line, "width"), _number(line, "height")
    return None if not width or not height else width / height


STATISTICS = (
    Statistic("people", tuple(n + 0.5 for n in range(32)), lambda line: _number(line, "people")),
    Statistic("top_score", _evenly(0, 1, 100), lambda line: _number(line, "top_score")),
    Statistic("mean_score", _evenly(0, 1, 100), lambda line: _number(line, "mean_score")),
    Statistic("brightness", _evenly(0, 1, 100), _brightness),
    Statistic("contrast", _evenly(0, 0.5, 100), lambda line: _number(line, "image_contrast")),
    Statistic("warmth", _evenly(-0.5, 0.5, 100), _warmth),
    Statistic("megapixels", tuple(round(2 ** (n / 4) / 64, 6) for n in range(49)), _megapixels),
    Statistic("aspect", tuple(round(2 ** (n / 8), 6) for n in range(-16, 17)), _aspect),
)
"""People and scores tell of the model's answers; brightness, contrast and warmth (red less blue) of the light; the last
two of the image's size and shape, width by height."""


@dataclass
class RequestCounter:
    """Counts requests of one model between two moments, line by line; holds no line.

    Attributes:
        model: Name of the model.
        version: Of which only lines of this version count; None for every version.
        since: Lines from before do not count.
        until: Lines from then on do not count.
    """

    model: str
    version: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    _counts: dict[str, list[int]] = field(init=False)
    _images: int = 0
    _first: datetime | None = None
    _last: datetime | None = None
    _unreadable: int = 0

    def __post_init__(self) -> None:
        self._counts = {one.name: [0] * (len(one.edges) + 1) for one in STATISTICS}

    def add(self, line: Line | None) -> None:
        """Count a line of an invocation; None stands for one that could not be read."""
        if line is None:
            self._unreadable += 1
            return
        at = moment_of(line)
        if at is None or not self.counts(line):
            return
        self._images += 1
        self._first = at if self._first is None else min(self._first, at)
        self._last = at if self._last is None else max(self._last, at)
        for statistic in STATISTICS:
            value = statistic.of(line)
            if value is not None:
                self._counts[statistic.name][bisect.bisect_right(statistic.edges, value)] += 1

    def add_all(self, lines: Iterable[Line | None]) -> RequestCounter:
        """Count lines; returns the counter."""
        for line in lines:
            self.add(line)
        return self

    @property
    def counted(self) -> RequestStatistics:
        """What came of it."""
        return RequestStatistics(
            model=self.model,
            version=self.version,
            since=self._first,
            until=self._last,
            images=self._images,
            unreadable_lines=self._unreadable,
            histograms={
                one.name: Histogram(edges=one.edges, counts=tuple(self._counts[one.name])) for one in STATISTICS
            },
        )

    def counts(self, line: Line) -> bool:
        """Whether a line is of an image that was answered, by the model, in the period."""
        at = moment_of(line)
        return at is not None and self._is_within(at) and self._is_answer(line)

    def _is_within(self, at: datetime) -> bool:
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)

    def _is_answer(self, line: Line) -> bool:
        of_version = self.version is None or line.get("model_version") == self.version
        return line.get("status") == 200 and "people" in line and line.get("model") == self.model and of_version


def earliest(lines: Iterable[Line | None], requests: int, counts: Callable[[Line], bool]) -> list[Line]:
    """So many of the lines that count, those that were logged first; holds no more lines than that.

    What is kept of a line is what `RequestCounter` reads.
    """
    dated = (
        (at, index, {key: line[key] for key in _READ if key in line})
        for index, line in enumerate(lines)
        if line is not None and (at := moment_of(line)) is not None and counts(line)
    )
    return [line for _, _, line in heapq.nsmallest(requests, dated)]


_READ = (
    *("timestamp", "status", "model", "model_version", "people", "top_score", "mean_score"),
    *("width", "height", "image_mean", "image_contrast"),
)
"""Members of a line that are read here."""


def moment_of(line: Line) -> datetime | None:
    """When an invocation ended, by its line; None where it does not say."""
    try:
        return datetime.fromisoformat(str(line["timestamp"])).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return None
