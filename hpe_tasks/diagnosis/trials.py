"""What mending a mistake gives, and which of many trials explains why a network fails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpe_tasks.diagnosis.hypotheses import Mistake
from hpe_tasks.diagnosis.people import Fit

_BETTER = 0.05
"""Probability of luck below which a more complicated explanation is better than a simpler one."""

_EXPLAINS = 0.001
"""That below which a trial is better than the configuration: of a hundred trials some look better by luck alone."""

_WORTH_NAMING = 0.2
"""What mending a mistake must gain, as a share of the metric's maximum times the root of the number of persons."""

_FEWEST = 3


@dataclass(frozen=True, eq=False)
class Trial:
    """A mistake, and how well the joints fit without it; None where the network's output is not finite."""

    mistake: Mistake
    fit: Fit | None

    @property
    def accuracy(self) -> float | None:
        """The judged figure."""
        return None if self.fit is None else self.fit.accuracy


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Best first; among equals the closer joints, then the simpler mistake."""

    def key(trial: Trial) -> tuple[float, float, int]:
        if trial.fit is None or trial.fit.accuracy is None:
            return math.inf, math.inf, trial.mistake.cost
        return -trial.fit.accuracy, -_mean(trial.fit), trial.mistake.cost

    return sorted(trials, key=key)


def explanation(trials: Sequence[Trial], maximum: float) -> Trial | None:
    """The simplest trial that is not clearly worse than the best one, if it is clearly better than as configured.

    Persons are compared one by one: what one explanation gives a person less what the other does, over all of them.

    Args:
        trials: That of the configuration first.
        maximum: The judged figure of a perfect network.
    """
    configured, *others = trials
    usable = [trial for trial in ranked(others) if trial.accuracy is not None]
    if not usable:
        return None
    best = usable[0]
    candidates = [trial for trial in usable if not _clearly_better(best, trial, maximum, _BETTER)]
    simplest = min(trial.mistake.cost for trial in candidates)
    chosen = next(trial for trial in candidates if trial.mistake.cost == simplest)
    return chosen if _clearly_better(chosen, configured, maximum, _EXPLAINS) else None


def _clearly_better(a: Trial, b: Trial, maximum: float, probability: float) -> bool:
    """Whether `a` gains what is worth naming, and its joints are closer in too many persons to be luck.

    Source: Wilcoxon's signed-rank test, one-sided: unlike a mean it does not rest on a few persons who gain a lot.
    """
    if a.fit is None or a.accuracy is None:
        return False
    if b.fit is None or b.accuracy is None:
        return True
    from scipy.stats import wilcoxon

    gains = a.fit.closeness - b.fit.closeness
    gains = gains[np.isfinite(gains)]
    count = len(gains)
    if count < _FEWEST or a.accuracy - b.accuracy < _WORTH_NAMING * maximum / math.sqrt(count):
        return False
    # A few persons cannot give a lower one than 2 to the minus their number.
    allowed = max(probability, 2.0 ** (1 - count))
    return bool(gains.any()) and bool(wilcoxon(gains[gains != 0], alternative="greater").pvalue < allowed)


def _mean(fit: Fit) -> float:
    known = fit.closeness[np.isfinite(fit.closeness)]
    return float(known.mean()) if known.size else 0.0
