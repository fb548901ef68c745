"""Measuring more images where the first are too few to tell: on tables with known differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpe_tasks.evaluation.paired import Question, Tables, compare_paired
from hpe_tasks.metrics.image_tables import WHOLE, hit_table
from hpe_tasks.metrics.sequential import nominal_errors
from hpe_tasks.records.comparison import PairedComparison

PERSONS, JOINTS = 4, 10
COLUMNS = {WHOLE: tuple(range(JOINTS)), "group/head": (0, 1)}


class Split:
    """A split in which FP32 finds 80 % of the joints, and the file loses a share of these."""

    def __init__(self, lost: float, images: int = 4000, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        shape = (images * PERSONS, JOINTS)
        self.before = rng.random(shape) < 0.8
        # Some joints change either way: what is resampled must not be the same in all images.
        changed = rng.random(shape)
        self.after = np.where(changed < 0.1, ~self.before, self.before) & (rng.random(shape) >= lost)
        self.calls: list[tuple[int, int]] = []

    def drop(self) -> float:
        """In percentage points, over all images."""
        return 100 * float(self.before.mean() - self.after.mean())

    def tables(self, begin: int, end: int) -> Tables:
        rows = slice(begin * PERSONS, end * PERSONS)
        names = [f"{number // PERSONS:06}" for number in range(rows.start, rows.stop)]
        labelled = np.ones((len(names), JOINTS), dtype=np.bool_)
        before, after = (hit_table(names, right[rows], labelled, COLUMNS) for right in (self.before, self.after))
        return before, after

    def ask(self, question: Question, first: int, available: int = 4000) -> PairedComparison:
        def further(begin: int, end: int) -> Tables:
            self.calls.append((begin, end))
            return self.tables(first + begin, first + end)

        return compare_paired(self.tables(0, first), available, question, further)


def question(limit: float, **changes: Any) -> Question:
    asked = Question(limit_of={WHOLE: limit}.get, confidence=0.95, resamples=1000, max_looks=3, seed=0)
    return replace(asked, **changes)


def test_images_that_tell_are_enough() -> None:
    split = Split(lost=0.0)
    compared = split.ask(question(20.0), 200)
    assert (split.calls, len(compared.looks), compared.num_images) == ([], 1, 200)
    assert compared.parts[0].part == WHOLE
    assert compared.parts[0].probability == 1.0
    assert compared.part("group/head").limit is None


def test_too_few_images_are_followed_by_as_many_as_it_takes() -> None:
    split = Split(lost=0.0)
    compared = split.ask(question(7.4), 60)
    (calls,) = split.calls
    assert calls[0] == 0
    assert [look.num_images for look in compared.looks] == [60, 60 + calls[1]]
    assert compared.num_images >= 120
    expected = nominal_errors(0.025, [60 / 4000, compared.num_images / 4000])
    assert [look.error for look in compared.looks] == pytest.approx(expected)
    # The same as if all had been measured at once, but for the width of the interval.
    at_once = split.ask(question(7.4, max_looks=1), compared.num_images)
    assert compared.parts[0].drop == at_once.parts[0].drop
    assert compared.parts[0].low < at_once.parts[0].low


def test_where_more_are_needed_than_there_are_all_are_measured() -> None:
    split = Split(lost=0.0)
    drop = split.ask(question(50.0), 40).parts[0].drop
    compared = split.ask(question(drop + 0.01), 40)
    assert split.calls == [(0, 4000 - 40)]
    assert [look.num_images for look in compared.looks] == [40, 4000]


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        pytest.param({"max_looks": 1}, 60, id="one-look-only"),
        pytest.param({"confidence": None}, 60, id="no-intervals"),
        pytest.param({}, 4000, id="nothing-left"),
        pytest.param({"limit_of": {}.get}, 60, id="nothing-asked"),
    ],
)
def test_nothing_is_added_where_it_is_not_asked_for(changes: dict[str, Any], first: int) -> None:
    split = Split(lost=0.0)
    split.ask(question(6.8, **changes), first)
    assert split.calls == []


def test_a_good_model_that_was_unlucky_at_first_passes_on_more_images() -> None:
    splits = (Split(lost=0.0, seed=seed) for seed in range(20))
    split, unlucky, limit = next(
        (split, first, drop + 0.4)
        for split in splits
        if (first := split.ask(question(50.0), 40).parts[0].drop) > (drop := split.drop()) + 0.5
    )
    assert unlucky > limit
    compared = split.ask(question(limit), 40)
    assert split.calls
    assert compared.parts[0].low >= -limit


def test_a_loss_that_is_too_large_needs_no_further_images() -> None:
    split = Split(lost=0.2)
    assert split.ask(question(5.0), 60).num_images == 60
    assert split.calls == []


@pytest.mark.long
def test_a_model_that_loses_exactly_too_much_passes_as_rarely_as_was_promised() -> None:
    """Looking three times at growing samples errs no more often than the confidence says: two-sided 90 %, so 5 %."""
    truth = Split(lost=0.05, images=60_000, seed=1)
    lost = 100 * float(truth.before.mean() - truth.after.mean())
    passed = 0
    for seed in range(200):
        split = Split(lost=0.05, seed=100 + seed)
        asked = question(lost, confidence=0.9, resamples=300)
        compared = split.ask(asked, 100, available=800)
        passed += compared.parts[0].low >= -lost
    assert passed <= 20  # 10 are expected at most; more than 20 come once in a thousand times


def test_tables_of_other_images_are_refused() -> None:
    split = Split(lost=0.0)
    (before, _), (_, after) = split.tables(0, 50), split.tables(50, 100)
    with pytest.raises(ValueError, match="different images"):
        compare_paired((before, after), 4000, question(5.0), split.tables)
