"""Whether a model may be published."""

from __future__ import annotations

from typing import Literal

from hpe_tasks.config.base import Frozen
from hpe_tasks.records.base import Record
from hpe_tasks.records.comparison import PairedComparison


class GateCheck(Frozen):
    """One requirement: what was observed, what was asked, and why it passed or failed.

    Attributes:
        inconclusive: It did not pass because too little was measured to tell: the limit lies within the interval.
        interval: Ends of the observed number's interval; None without one.
        probability: Share of the resamples in which the limit is kept.
        images_to_decide: About how many images would tell, if the number stays what it is; None where that is unknown.
    """

    name: str
    title: str
    passed: bool
    observed: float | None
    limit: float
    comparison: Literal["at_least", "at_most"]
    unit: str
    reason: str
    inconclusive: bool = False
    interval: tuple[float, float] | None = None
    probability: float | None = None
    images_to_decide: int | None = None


class GateDecision(Record):
    """Whether the model may be published.

    Attributes:
        comparison: What the losses of accuracy were judged by; None in older records.
    """

    passed: bool
    checks: tuple[GateCheck, ...]
    comparison: PairedComparison | None = None

    @property
    def failed(self) -> tuple[GateCheck, ...]:
        """Checks that did not pass, those that say no before those that cannot tell: people are told the first."""
        return tuple(sorted((check for check in self.checks if not check.passed), key=lambda check: check.inconclusive))

    @property
    def inconclusive(self) -> bool:
        """Whether it did not pass only because too little was measured to tell."""
        return not self.passed and all(check.inconclusive for check in self.failed)

    @property
    def reason(self) -> str:
        """The failed checks in one sentence; empty when all passed."""
        return "; ".join(check.reason for check in self.failed)
