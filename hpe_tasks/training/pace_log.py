"""How far a training is, how fast it goes, and how long it will still take, in the log now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hpe_tasks.progress import duration_text, progress_text, rate_text

_INTERVAL_S = 15.0

log = logging.getLogger("hpe_tasks.progress")


class PaceLog:
    """Writes a line every so often, over all epochs of a stage.

    The rate is that of this process, with what lies between the steps: a training that is taken up again, or that
    measures AP between its epochs, ends when its log says.

    Args:
        interval_s: Time from one line to the next, in seconds.
    """

    def __init__(self, interval_s: float = _INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._steps = self._done = 0
        self._began = self._due = 0.0

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """Begin to count."""
        self._steps, self._done = steps, done
        self._began = time.monotonic()
        self._due = self._began + self._interval_s

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell of a step, where the last line is long enough ago."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._interval_s
        log.info("Training: %s; %s", self._left(step, now - self._began), _text(figures))

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell nothing: a training's own lines do."""

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Tell nothing: whoever began the training tells its result."""

    def _left(self, step: int, elapsed_s: float) -> str:
        made = step - self._done
        told = progress_text(step, self._steps, "steps", 0.0)
        if made <= 0 or elapsed_s <= 0:
            return told
        told += f", {rate_text(made / elapsed_s, 'steps')}"
        if step >= self._steps:
            return told
        return f"{told}, {duration_text(elapsed_s / made * (self._steps - step))} left"


_SHOWN: Mapping[str, Callable[[float], str]] = {
    "loss": lambda value: f"loss {value:.3g}",
    "learning_rate": lambda value: f"learning rate {value:.2g}",
    "gradient_norm": lambda value: f"gradient norm {value:.2g}",
    "examples_per_s": lambda value: rate_text(value, "examples"),
}


def _text(figures: Mapping[str, float]) -> str:
    return ", ".join(text(figures[name]) for name, text in _SHOWN.items() if name in figures)
