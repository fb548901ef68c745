"""Whether a training still learns: what of a step's figures must stop it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from hpe_tasks.config.training import TrainingConfig

_FIRST = 10
_MOST_SKIPPED = 25
"""Scaling for float16 begins with a scale that is too large, and halves it in each step that it skips: from 2^16 down
to 1 in 16 of them."""


@dataclass
class StepWatch:
    """What steps before were like.

    Attributes:
        first: Losses of the first steps.
        skipped: Steps in a row whose gradients were no numbers, which scaling for float16 skips.
    """

    first: list[float] = field(default_factory=list)
    skipped: int = 0

    def reason(self, figures: Mapping[str, float], config: TrainingConfig, *, scaled: bool) -> str | None:
        """Why a step must not change the weights; None where it may.

        Args:
            figures: The step's `loss` and `gradient_norm`.
            config: The training.
            scaled: Whether gradients that are no numbers are skipped for a while.
        """
        loss, norm = figures["loss"], figures["gradient_norm"]
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if not math.isfinite(norm):
            self.skipped += 1
            if not scaled or self.skipped > _MOST_SKIPPED:
                return f"the norm of its gradients is {norm}"
            return None
        self.skipped = 0
        if len(self.first) < _FIRST:
            self.first.append(loss)
        elif loss > config.divergence_factor * sum(self.first) / _FIRST:
            return f"its loss of {loss:.4g} is over {config.divergence_factor:g} times that of the first {_FIRST} steps"
        return None
