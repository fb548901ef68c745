"""Figures of steps as means over neighbouring ones: a long training has more steps than a curve has points."""

from __future__ import annotations

from collections.abc import Mapping

from hpe_tasks.records.training_curves import finite

_POINTS = 2000
"""Of a stage at most: more than a screen can show, and less than a megabyte in a file."""


class StepMeans:
    """Collects the figures of steps until a point of the curve is complete.

    Args:
        steps: Number of steps of the stage.
        points: Number of points at most.
    """

    def __init__(self, steps: int, points: int = _POINTS) -> None:
        self._every, self._steps = max(1, -(-steps // points)), steps
        self._values: dict[str, list[float]] = {}

    def take(self, step: int, figures: Mapping[str, float]) -> dict[str, float]:
        """Take a step; with the last of a point it gives the means, and before nothing."""
        for name, value in finite(figures).items():
            self._values.setdefault(name, []).append(value)
        return self.rest() if step % self._every == 0 or step >= self._steps else {}

    def rest(self) -> dict[str, float]:
        """The means over what was taken since the last point; nothing where that was complete."""
        means = {name: sum(values) / len(values) for name, values in self._values.items()}
        self._values = {}
        return means
