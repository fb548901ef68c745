"""What several files take on this processor, against one of them, while they take turns.

As `hpe_tasks.evaluation.latency` compares two files, with more of them: in every round each has a turn, which counts as
the fastest of its runs, and ratios are taken within a round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from hpe_tasks.evaluation.latency import Clock, timed

_RUNS = 3
_LEAST_ROUNDS, _MOST_ROUNDS = 7, 25
_SECONDS_EACH = 1.0


def take_turns(networks: Sequence[Callable[[], object]], clock: Clock = time.perf_counter) -> list[list[float]]:
    """Seconds that each network took, by rounds: one list for each round.

    Every other round goes backwards, so that a machine that slows down steadily favours none.
    """
    for network in networks:
        network()
    began = clock()
    rounds: list[list[float]] = []
    while len(rounds) < _LEAST_ROUNDS or (
        len(rounds) < _MOST_ROUNDS and clock() - began < _SECONDS_EACH * len(networks)
    ):
        taken = [0.0] * len(networks)
        order = range(len(networks))
        for which in order if len(rounds) % 2 == 0 else reversed(order):
            # Not timed: it brings the file's weights back into the caches.
            networks[which]()
            taken[which] = min(timed(networks[which], clock) for _ in range(_RUNS))
        rounds.append(taken)
    return rounds


def median_ratio(rounds: Sequence[Sequence[float]], one: int, other: int) -> float:
    """Median over the rounds of what one network took, relative to another."""
    return statistics.median(taken[one] / taken[other] for taken in rounds)
