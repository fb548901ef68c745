"""Whether a model may be published."""

from __future__ import annotations

from typing import Literal

from hpe_tasks.config.base import Frozen
from hpe_tasks.records.base import Record


class GateCheck(Frozen):
    """One requirement: what was observed, what was asked, and why it passed or failed."""

    name: str
    title: str
    passed: bool
    observed: float | None
    limit: float
    comparison: Literal["at_least", "at_most"]
    unit: str
    reason: str


class GateDecision(Record):
    """Whether the model may be published."""

    passed: bool
    checks: tuple[GateCheck, ...]

    @property
    def reason(self) -> str:
        """The failed checks in one sentence; empty when all passed."""
        return "; ".join(check.reason for check in self.checks if not check.passed)
