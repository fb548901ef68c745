"""What the self-test of the pipeline's guards has found."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from hpe_tasks.config.base import Frozen
from hpe_tasks.records.base import Record

GuardOutcome = Literal["passed", "refused", "let_through", "broke"]


class GuardTrial(Frozen):
    """One fault, planted on a healthy run; or the healthy run itself, which every guard must let pass.

    Attributes:
        name: Of the fault, as `hpe selftest --only` takes it; `healthy` for the run without one.
        planted: What is wrong, in a few words.
        guard: What is to refuse it.
        outcome: `passed` is what is wanted of the healthy run, and `refused` of a fault. A fault that another guard has
            stopped counts as `let_through`: each guard is to do its own work. `broke` is an error that no guard raised.
        message: The guard's own words; or what happened in place of a refusal.
        seconds: How long it took.
    """

    name: str
    planted: str
    guard: str
    outcome: GuardOutcome
    message: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether it came out as wanted."""
        return self.outcome == ("passed" if self.name == HEALTHY else "refused")


HEALTHY = "healthy"
"""Name of the trial without a fault."""


class SelfTest(Record):
    """All trials: whether each guard refuses its fault, and lets a healthy run pass.

    Attributes:
        trials: The healthy run first.
        processor: Name of the machine's.
    """

    started: datetime
    seconds: float
    trials: tuple[GuardTrial, ...]
    git_commit: str | None
    processor: str

    @property
    def passed(self) -> bool:
        """Whether the healthy run passed and every fault was refused by its guard."""
        return bool(self.trials) and all(trial.good for trial in self.trials)

    @property
    def failed(self) -> tuple[GuardTrial, ...]:
        """The trials that did not come out as wanted."""
        return tuple(trial for trial in self.trials if not trial.good)

    @property
    def faults(self) -> tuple[GuardTrial, ...]:
        """The trials with a fault."""
        return tuple(trial for trial in self.trials if trial.name != HEALTHY)
