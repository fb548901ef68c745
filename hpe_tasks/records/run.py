"""How a run and its steps went."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from hpe_tasks.config.base import Frozen
from hpe_tasks.records.base import Artifact, Record


class RunReport(Record):
    """The HTML report of the run."""

    html: Artifact


class StepFailure(Record):
    """Why a step did not produce its result."""

    step: str
    error: str
    message: str
    hint: str
    failed_at: datetime


StepState = Literal["done", "failed", "refused", "skipped", "not_run"]


class StepOutcome(Frozen):
    """How one step of a run went.

    Attributes:
        title: What it does, in two or three words.
        failure: Why its last attempt failed.
    """

    name: str
    title: str
    state: StepState
    failure: StepFailure | None = None
