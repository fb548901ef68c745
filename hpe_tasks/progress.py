"""Progress of long work: a bar on a terminal, a line now and then in a log; both with the rate and the time left."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

T = TypeVar("T")

_LOG_INTERVAL_S = 15.0

log = logging.getLogger(__name__)


def track(
    items: Iterable[T],
    description: str,
    *,
    total: int | None = None,
    unit: str = "",
    count: Callable[[T], int] | None = None,
) -> Iterator[T]:
    """Pass the items on and show how far the work is, how fast it goes, and how long it will still take.

    Args:
        items: What is worked on; may be a generator.
        description: What is done, as a person reads it.
        total: Number of units in all, where `items` has no length or an item is more than one unit.
        unit: What is counted, in the plural, such as "images".
        count: Units that an item holds, as for batches; one by default.
    """
    if total is None and count is None and isinstance(items, Sized):
        total = len(items)
    show = _bar if sys.stderr.isatty() else _lines
    yield from show(items, description, total, unit, count or _one)


def _one(_: object) -> int:
    return 1


def progress_text(done: int, total: int | None, unit: str, elapsed_s: float) -> str:
    """How far work is, such as "64 of 320 persons, 12 persons/s, 21 s left"."""
    units = f" {unit}" if unit else ""
    told = [f"{done:,} of {total:,}{units}" if total is not None else f"{done:,}{units}"]
    if done and elapsed_s > 0:
        told.append(rate_text(done / elapsed_s, unit))
        if total is not None and total > done:
            told.append(f"{duration_text(elapsed_s / done * (total - done))} left")
    return ", ".join(told)


def rate_text(per_second: float, unit: str) -> str:
    """A rate with two digits that count, such as "12 persons/s" or "0.53 batches/s"."""
    shown = f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"
    return f"{shown} {unit}/s" if unit else f"{shown}/s"


def duration_text(seconds: float) -> str:
    """A duration in its two largest units, such as "4 min 10 s"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _bar(items: Iterable[T], description: str, total: int | None, unit: str, count: Callable[[T], int]) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _rate_column(unit), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task, count(item))


def _rate_column(unit: str) -> ProgressColumn:
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(rate_text(task.speed, unit) if task.speed else unit)

    return Rate()


def _lines(
    items: Iterable[T], description: str, total: int | None, unit: str, count: Callable[[T], int]
) -> Iterator[T]:
    began = time.monotonic()
    due, done, told = began + _LOG_INTERVAL_S, 0, False
    for item in items:
        yield item
        done += count(item)
        now = time.monotonic()
        if now >= due:
            log.info("%s: %s", description, progress_text(done, total, unit, now - began))
            due, told = now + _LOG_INTERVAL_S, True
    if told:
        elapsed = time.monotonic() - began
        log.info("%s: %s, after %s", description, progress_text(done, None, unit, elapsed), duration_text(elapsed))
