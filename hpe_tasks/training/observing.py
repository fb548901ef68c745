"""What a training tells whoever watches it, as it happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn


class Observer(Protocol):
    """Is told how a training goes: its log, curves in files, a tracking server.

    Steps are counted from 1 through all epochs of a stage, and go on where a killed training is taken up again: the
    same step may then be told twice.
    """

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """A stage begins, or is taken up again.

        Args:
            settings: The stage's, as they are stored with its weights.
            network: What is trained.
            steps: Number of steps of the stage.
            done: How many of them a killed training had made.
        """

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        """A step is done.

        Args:
            step: Its number.
            figures: `loss`, `learning_rate`, `gradient_norm` where it was computed, and `examples_per_s`.
        """

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """An epoch is done: `epoch`, its mean `loss`, and `ap` where that was measured."""

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """The stage is done, or stopped by an error: what it came to, and the files it has left."""
