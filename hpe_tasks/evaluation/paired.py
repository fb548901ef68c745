"""FP32 and the exported file compared image by image, with more images where the first are too few."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpe_tasks.gate.accuracy import TOLERANCE
from hpe_tasks.gate.paired import images_to_decide, undecided
from hpe_tasks.metrics.bootstrap import interval, paired_differences
from hpe_tasks.metrics.image_tables import WHOLE, ImageTable
from hpe_tasks.metrics.sequential import nominal_errors
from hpe_tasks.records.comparison import Look, PairedComparison, PartDifference

Tables = tuple[ImageTable, ImageTable]
"""FP32's and the exported file's, of the same images."""

_GROWTH = 2
"""Each look has at least this many times the images of the one before: one with hardly more tells hardly more."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """What is asked of a comparison.

    Attributes:
        limit_of: How much a part may lose; None where nothing is asked of it.
        confidence: Of the intervals, two-sided, all looks together; None for none.
        resamples: Of the images for an interval.
        max_looks: How often may be looked.
        seed: Of the resamples.
    """

    limit_of: Callable[[str], float | None]
    confidence: float | None
    resamples: int
    max_looks: int
    seed: int


def compare_paired(
    tables: Tables, available_images: int, question: Question, measure_further: Callable[[int, int], Tables]
) -> PairedComparison:
    """Compare two measurements; measure more images as long as they are too few to tell and there are more.

    Args:
        tables: Of the first images.
        available_images: How many could be measured in all.
        question: What is asked.
        measure_further: Tables of further images: those from one number to another, of all that were not measured yet.

    Raises:
        ValueError: The tables are of different images.
    """
    first = len(tables[0].images)
    fractions: list[float] = []
    looks: list[Look] = []
    while True:
        num_images = len(tables[0].images)
        fractions.append(min(1.0, num_images / available_images))
        # A single look spends all at once: on the whole split, or where nothing will be added.
        alone = question.max_looks == 1
        error = None if question.confidence is None else (1 - question.confidence) / 2
        if error is not None and not alone:
            error = nominal_errors(error, fractions)[-1]
        parts = differences(tables, question, error)
        comparison = PairedComparison(
            num_images=num_images,
            available_images=available_images,
            confidence=question.confidence,
            resamples=question.resamples,
            parts=parts,
        )
        whole = comparison.part(WHOLE)
        if error is not None and whole is not None:
            largest = None if whole.low is None else -whole.low
            looks.append(Look(num_images=num_images, error=error, drop=whole.drop, largest_drop=largest))
        comparison = comparison.model_copy(update={"looks": tuple(looks)})
        open_parts = undecided(comparison)
        if not open_parts or num_images >= available_images or len(looks) >= question.max_looks:
            return comparison
        needed = max((images_to_decide(num_images, part) or available_images) for part in open_parts)
        last = len(looks) + 1 == question.max_looks
        wanted = available_images if last else min(available_images, max(needed, _GROWTH * num_images))
        log.info("%s images are too few to tell: measuring %s more.", f"{num_images:,}", f"{wanted - num_images:,}")
        further = measure_further(num_images - first, wanted - first)
        tables = tables[0].joined(further[0]), tables[1].joined(further[1])


def differences(tables: Tables, question: Question, error: float | None) -> tuple[PartDifference, ...]:
    """Each part before and after, the judged figure first; with an error, that of one tail, also intervals."""
    before, after = tables
    parts = [part for part in before.parts if part in after.parts]
    parts.sort(key=lambda part: part != WHOLE)
    drawn = {}
    if error is not None:
        # Of a part of which nothing is asked the figures are told without an interval: most parts are single joints.
        judged = [part for part in parts if question.limit_of(part) is not None]
        drawn = paired_differences(before, after, resamples=question.resamples, seed=question.seed, parts=judged)
    old, new = before.whole(), after.whole()
    told = []
    for part in parts:
        limit = question.limit_of(part)
        ends = interval(drawn[part], 1 - 2 * error) if error is not None and part in drawn else None
        kept = None
        if ends is not None and limit is not None:
            known = drawn[part][~np.isnan(drawn[part])]
            kept = float((known >= -limit - TOLERANCE).mean())
        told.append(
            PartDifference(
                part=part,
                before=_number(old[part]),
                after=_number(new[part]),
                low=None if ends is None else ends[0],
                high=None if ends is None else ends[1],
                limit=limit,
                probability=kept,
            )
        )
    return tuple(told)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value
