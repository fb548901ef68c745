"""Curves of a training as files for TensorBoard: `tensorboard --logdir FOLDER` shows them while they grow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from hpe_tasks.records.training_curves import finite, stage_name
from hpe_tasks.storage.files import storage_errors

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_FLUSH_S = 10


class TensorBoardFiles:
    """Writes event files, each stage's in a folder of its own: `train/…` by step, `epoch/…` and ranges by epoch.

    TensorBoard drops what an earlier process has told of steps behind those that were done.

    Args:
        folder: Takes the stages' folders; created when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """Open the stage's event file; its settings are shown as text."""
        from torch.utils.tensorboard import SummaryWriter

        self._close()
        folder = self._folder / stage_name(settings)
        with storage_errors(folder):
            self._writer = SummaryWriter(str(folder), purge_step=done + 1, flush_secs=_FLUSH_S)
        self._writer.add_text("settings", f"```json\n{json.dumps(dict(settings), indent=1, sort_keys=True)}\n```", done)

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        """Write a step's figures."""
        self._write("train", step, figures)

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Write an epoch's figures, so that they can be seen at once."""
        self._write("epoch", step, figures)
        if self._writer is not None:
            self._writer.flush()

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Close the event file."""
        self._close()

    def _write(self, group: str, step: int, figures: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in finite(figures).items():
                # Names with a slash, such as those of ranges, have a group of their own.
                self._writer.add_scalar(name if "/" in name else f"{group}/{name}", value, step)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
