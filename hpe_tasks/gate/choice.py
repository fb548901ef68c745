"""Which rung of the ladder a run takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hpe_tasks.records.ladder import TriedRung

ToldApart = Callable[[TriedRung, TriedRung], bool]
"""Whether the figures of two rungs differ by more than noise."""


def closest(tried: Sequence[TriedRung]) -> TriedRung | None:
    """The rung that has lost least, whatever the gate said of it; None where nothing could be measured."""
    measured = [rung for rung in tried if rung.state != "impossible"]
    return min(measured, key=_loss, default=None)


def best_passing(tried: Sequence[TriedRung], told_apart: ToldApart) -> TriedRung | None:
    """The best of the rungs that pass; None where none does.

    Of those whose figures cannot be told from that of the one which lost least, the fastest; of those whose speed
    cannot be told from that one's, the one that lost least. What is equal in all this is decided by the ladder's order.
    """
    passing = sorted((rung for rung in tried if rung.passed), key=_loss)
    if not passing:
        return None
    as_accurate = [rung for rung in passing if rung is passing[0] or not told_apart(passing[0], rung)]
    fastest = max(as_accurate, key=_speed)
    as_fast = [rung for rung in as_accurate if rung is fastest or not _slower(rung, fastest)]
    return as_fast[0]


def _loss(rung: TriedRung) -> float:
    return math.inf if rung.loss is None else rung.loss


def _speed(rung: TriedRung) -> float:
    return 0.0 if rung.latency is None else rung.latency.one_thread.ratio


def _slower(rung: TriedRung, other: TriedRung) -> bool:
    """Whether a rung is slower by more than the noise of both measurements."""
    if rung.latency is None or other.latency is None:
        return rung.latency is None and other.latency is not None
    return rung.latency.one_thread.ratio_high < other.latency.one_thread.ratio_low
