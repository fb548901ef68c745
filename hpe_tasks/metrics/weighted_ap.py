"""COCO's average precision of many multisets of the same images at once, exactly.

In a multiset an image counts as often as it is drawn: as if its persons and results were there that many times, under
ids of their own. Precision and recall then are sums of these counts along the results by falling score. Of consecutive
true results only the sum matters, because precision rises along them and its envelope looks to the right: a precision
is computed at the end of each such run, and nowhere else. The numbers are those of COCOeval, operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.metrics.matching import THRESHOLDS, Matches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recalls at which COCOeval reads the precision."""

_MOST_COPIES = 16
"""Results of equal score are told apart in this many copies of their image; a draw of n images from n holds one
image 16 times or more once in 10^13."""

_EPSILON = float(np.spacing(1))


@dataclass(frozen=True, eq=False)
class RankedResults:
    """Results by falling score, over copies of their images.

    Two results of one image with the same score come in pairs once their image is there twice: first, second, first,
    second. Such results have an entry for each copy, all others one entry for all copies.

    Attributes:
        result: Entries: which result.
        image: Entries: index of its image.
        copy: Entries: its copy of the image; -1 for all copies.
    """

    result: Ints
    image: NDArray[np.int32]
    copy: NDArray[np.int32]

    @classmethod
    def of(cls, image: NDArray[np.int32], score: Floats, num_images: int) -> RankedResults:
        """Results in their order.

        Args:
            image: D.
            score: D, falling.
            num_images: That are drawn from, and as many as are drawn.
        """
        same = (image[1:] == image[:-1]) & (score[1:] == score[:-1])
        runs = np.split(np.arange(len(image)), np.flatnonzero(~same) + 1) if len(image) else []
        copies = min(num_images, _MOST_COPIES)
        results = [np.tile(run, copies) if len(run) > 1 else run for run in runs]
        numbers = [
            np.repeat(np.arange(copies), len(run)) if len(run) > 1 else np.array([-1], dtype=np.int64) for run in runs
        ]
        result = np.concatenate(results) if results else np.zeros(0, dtype=np.int64)
        copy = np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.int64)
        return cls(result, image[result], copy.astype(np.int32))

    def running_totals(self, counts: NDArray[np.int32]) -> Floats:
        """B×(entries + 1): how many results there are before each entry, and in all; whole numbers."""
        weights = np.take(counts.astype(np.float64), self.image, axis=1, mode="clip")
        if len(tied := np.flatnonzero(self.copy >= 0)):
            left = counts[:, self.image[tied]] - self.copy[tied]
            most = np.where(self.copy[tied] == _MOST_COPIES - 1, np.iinfo(np.int32).max, 1)
            weights[:, tied] = np.clip(left, 0, most)
        totals = np.zeros((len(counts), len(self.image) + 1))
        np.cumsum(weights, axis=1, out=totals[:, 1:])
        return totals


@dataclass(frozen=True, eq=False)
class Runs:
    """Stretches of true results at one threshold, as places in the running totals.

    Attributes:
        starts: Where each begins.
        ends: Where each has ended.
        ignored: Starts and ends of stretches of ignored results, and how many of these have ended by each of `ends`;
            None where there are none.
    """

    starts: Ints
    ends: Ints
    ignored: tuple[Ints, Ints, Ints] | None

    @classmethod
    def of(cls, true: NDArray[np.bool_], ignored: NDArray[np.bool_]) -> Runs:
        """The stretches of set flags."""
        starts, ends = _stretches(true)
        first, last = _stretches(ignored)
        return cls(starts, ends, (first, last, np.searchsorted(last, ends, side="right")) if len(first) else None)


def runs_of(ranked: RankedResults, matches: Matches) -> tuple[Runs, ...]:
    """The runs at each threshold."""
    true, ignored = matches.true[ranked.result], matches.ignored[ranked.result]
    return tuple(Runs.of((true >> bit & 1) > 0, (ignored >> bit & 1) > 0) for bit in range(len(THRESHOLDS)))


def weighted_ap(runs: tuple[Runs, ...], persons: NDArray[np.int32], totals: Floats) -> Floats:
    """AP over each of B multisets; NaN where no person in one counts.

    Args:
        runs: At each threshold.
        persons: B: persons who count.
        totals: B×(entries + 1), as RankedResults gives them.
    """
    needed = _needed(persons)
    total = np.zeros(len(totals))
    for one in runs:
        total += _precision(one, totals, needed)
    return np.where(persons > 0, total / len(THRESHOLDS), np.nan)


def _precision(runs: Runs, totals: Floats, needed: Floats) -> Floats:
    """Mean precision over RECALLS at one threshold."""
    multisets, width = len(totals), len(runs.ends) + 1
    # The last column stands for recalls that are not reached.
    precision = np.zeros((multisets, width))
    if width == 1:
        return precision[:, 0]
    judged = np.take(totals, runs.ends, axis=1, mode="clip")
    found = np.cumsum(judged - np.take(totals, runs.starts, axis=1, mode="clip"), axis=1)
    if runs.ignored is not None:
        first, last, before = runs.ignored
        dropped = np.zeros((multisets, len(first) + 1))
        np.cumsum(totals[:, last] - totals[:, first], axis=1, out=dropped[:, 1:])
        judged -= np.take(dropped, before, axis=1, mode="clip")
    judged += _EPSILON
    np.divide(found, judged, out=precision[:, :-1])
    reached = np.stack([row.searchsorted(wanted) for row, wanted in zip(found, needed, strict=True)])
    reached += (np.arange(multisets) * width)[:, None]
    # The best between one recall and the next; the first one of a row is 0, which begins it.
    best = np.maximum.reduceat(precision.ravel(), reached.ravel()).reshape(multisets, len(RECALLS))
    # A recall that is not reached has its row's last column and no other: 0.
    return np.asarray(np.maximum.accumulate(best[:, ::-1], axis=1).mean(axis=1))


def _stretches(flags: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Where stretches of set flags begin, and where they have ended."""
    edges = np.diff(np.concatenate(([0], flags.astype(np.int8), [0])))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


def _needed(persons: NDArray[np.int32]) -> Floats:
    """B×101: the fewest true results that reach each recall, by the division that COCOeval compares; whole numbers."""
    among = np.maximum(persons, 1)[:, None].astype(np.float64)
    needed = np.ceil(RECALLS * among)
    needed += needed / among < RECALLS
    needed -= (needed > 0) & ((needed - 1) / among >= RECALLS)
    return needed
