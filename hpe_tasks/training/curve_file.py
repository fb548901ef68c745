"""The curves of a training in a file of JSON lines, and drawn beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from hpe_tasks.records.training_curves import begun, ended, measured, read_curves, stepped
from hpe_tasks.report.training_page import training_page
from hpe_tasks.storage.files import storage_errors, write_atomically
from hpe_tasks.training.step_means import StepMeans

CURVES, PAGE = "curves.jsonl", "curves.html"


class CurveFile:
    """Writes `curves.jsonl`, one line at a time, and after each epoch `curves.html`.

    Args:
        folder: Takes both; created when missing.
        go_on: Whether a training that is taken up again goes on in the file that is there; otherwise it begins anew.
    """

    def __init__(self, folder: Path, *, go_on: bool = True) -> None:
        self._file, self._page, self._go_on = folder / CURVES, folder / PAGE, go_on
        self._means, self._step = StepMeans(0), 0

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """Begin a stage, or go on behind what was done of it."""
        self._means, self._step = StepMeans(steps), done
        with storage_errors(self._file):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if not self._go_on:
                self._file.unlink(missing_ok=True)
            _drop_torn_line(self._file)
        self._go_on = True  # The next stage does.
        self._write(begun(settings, steps=steps, done=done))

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        """Take a step into a mean, and write that when it is complete."""
        self._step = step
        self._write_means(self._means.take(step, figures))

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Write what an epoch came to, and draw the curves anew."""
        self._write(measured(step, figures))
        self._draw()

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Write what the stage came to, and draw the curves for the last time."""
        self._write_means(self._means.rest())
        self._write(ended(figures))
        self._draw()

    def _write_means(self, figures: Mapping[str, float]) -> None:
        if figures:
            self._write(stepped(self._step, figures))

    def _write(self, line: str) -> None:
        with storage_errors(self._file), self._file.open("a", encoding="utf-8") as file:
            file.write(line)

    def _draw(self) -> None:
        write_atomically(self._page, training_page(read_curves(self._file)).encode())


def _drop_torn_line(file: Path) -> None:
    """Cut off what a killed training could not write to the end."""
    if not file.exists():
        return
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as opened:
            opened.truncate(whole)
