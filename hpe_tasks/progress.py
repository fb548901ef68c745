"""Progress of long work: a bar on a terminal, a line now and then in a log, nothing in a pipe."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

_LOG_INTERVAL_S = 15.0

log = logging.getLogger(__name__)


def track(items: Iterable[T], description: str, *, total: int | None = None) -> Iterator[T]:
    """Pass the items on and show how far the work is.

    Args:
        items: What is worked on; may be a generator.
        description: What is done, as a person reads it.
        total: Number of items, where `items` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from _bar(items, description, total)
    else:
        yield from _lines(items, description, total)


def _bar(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        for item in items:
            yield item
            progress.advance(task)


def _lines(items: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    due = time.monotonic() + _LOG_INTERVAL_S
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() >= due:
            log.info("%s: %d of %s", description, done, total if total is not None else "?")
            due = time.monotonic() + _LOG_INTERVAL_S
