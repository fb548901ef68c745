"""A training's lines in the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

log = logging.getLogger(__name__)


class TrainingLog:
    """Tells each epoch's loss, and AP where it was measured; every training has one."""

    def __init__(self) -> None:
        self._epochs = 0

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """Tell where a killed training goes on."""
        self._epochs = int(settings["epochs"])
        if done:
            log.info("going on after step %d of %d", done, steps)

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell nothing: there are too many steps."""

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Tell the epoch's figures."""
        note = f", AP {figures['ap']:.3f}" if "ap" in figures else ""
        log.info("epoch %d of %d: loss %.6f%s", figures["epoch"], self._epochs, figures["loss"], note)

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Tell nothing: whoever began the training tells its result."""
