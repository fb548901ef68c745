"""What was found before anything long began."""

from __future__ import annotations

from typing import Literal

from hpe_tasks.config.base import Frozen
from hpe_tasks.records.base import Record


class PreflightCheck(Frozen):
    """One thing that was looked at before the run began.

    Attributes:
        title: What it is about, for people.
        state: With `warning` the run goes on.
        found: What is there.
        advice: What to do about a warning or a failure.
        may_pass: The network or a server failed: trying again may help.
    """

    name: str
    title: str
    state: Literal["ok", "warning", "failed"]
    found: str
    advice: str = ""
    may_pass: bool = False


class Preflight(Record):
    """What was found before anything long began: the inputs, the destination and this machine."""

    checks: tuple[PreflightCheck, ...]

    @property
    def failed(self) -> tuple[PreflightCheck, ...]:
        """What must stop the run."""
        return tuple(check for check in self.checks if check.state == "failed")

    @property
    def warnings(self) -> tuple[PreflightCheck, ...]:
        """What a run goes on with."""
        return tuple(check for check in self.checks if check.state == "warning")
