"""What a paired comparison says about a limit: kept, broken, or too little measured to tell.

A loss is within its limit when the whole interval is: the rule of non-inferiority trials, where the burden of proof is
on the new one (ICH E9, section 3.3.2). It is too large when the whole interval is: a few unlucky images are no reason
to refuse a model, as a few lucky ones are none to publish it. In between more images would tell.

Several limits need no correction: a model passes only when it keeps all of them, so that a model which breaks one
passes no more often than that one's interval errs (an intersection-union test; Berger, Technometrics 24, 1982).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from hpe_tasks.gate.accuracy import TOLERANCE
from hpe_tasks.records.comparison import PairedComparison, PartDifference

Outcome = Literal["kept", "inconclusive", "broken"]

_MOST_IMAGES = 10_000_000


def outcome_of(part: PartDifference) -> Outcome:
    """Whether a part keeps its limit; where there is no limit, or no person counts, it does.

    Without an interval the measured loss decides.
    """
    drop, limit = part.drop, part.limit
    if drop is None or limit is None:
        return "kept"
    # What was measured lies within the interval, but for few images whose resamples all differ from it.
    least = drop if part.high is None else min(drop, -part.high)
    most = drop if part.low is None else max(drop, -part.low)
    if least > limit + TOLERANCE:
        return "broken"
    return "inconclusive" if most > limit + TOLERANCE else "kept"


def undecided(comparison: PairedComparison) -> tuple[PartDifference, ...]:
    """The parts for which more images would tell; none where another is broken anyway."""
    outcomes = [(part, outcome_of(part)) for part in comparison.parts]
    if any(outcome == "broken" for _, outcome in outcomes):
        return ()
    return tuple(part for part, outcome in outcomes if outcome == "inconclusive")


def worst_of(parts: Iterable[PartDifference]) -> PartDifference | None:
    """The part that decides: the most broken one, else an inconclusive one, else that with the least room."""
    order: dict[Outcome, int] = {"broken": 0, "inconclusive": 1, "kept": 2}

    def rank(part: PartDifference) -> tuple[int, float]:
        outcome, drop, limit = outcome_of(part), part.drop or 0.0, part.limit or 0.0
        at_worst = drop if outcome == "broken" or part.low is None else -part.low
        return order[outcome], limit - at_worst

    judged = [part for part in parts if part.drop is not None and part.limit is not None]
    return min(judged, key=rank, default=None)


def images_to_decide(num_images: int, part: PartDifference) -> int | None:
    """About how many images would have an interval on one side of the limit, if the loss stays as it was measured.

    An interval shrinks with the square root of the images. None where the loss is the limit, or none was measured.
    """
    if part.drop is None or part.limit is None or part.low is None or part.high is None:
        return None
    room = abs(part.limit - part.drop)
    reach = -part.drop - part.low if part.drop < part.limit else part.high + part.drop
    if room <= TOLERANCE:
        return None
    images = num_images * (reach / room) ** 2
    if images > _MOST_IMAGES:
        return None
    # Two digits: more would claim to know too much.
    step = 10.0 ** max(0, math.floor(math.log10(max(images, 1.0))) - 1)
    return int(math.ceil(images / step - TOLERANCE) * step)
