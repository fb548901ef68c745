"""The checks of the gate, one object each.

A further check is a class in one of these modules, named in its CHECKS, and its limit in `GateLimits`.
"""

from __future__ import annotations

from collections.abc import Iterator

from hpe_tasks.gate.checks import accuracy, arithmetic, cost, parts
from hpe_tasks.gate.checks.base import Advice, Requirement, Situation
from hpe_tasks.records.gate import GateCheck

CHECKS: tuple[Requirement, ...] = (*accuracy.CHECKS, *parts.CHECKS, *arithmetic.CHECKS, *cost.CHECKS)
"""In the order in which they are judged and shown."""


def advise(failed: GateCheck, run: Situation) -> Iterator[Advice]:
    """What may lift a check that failed, most promising first."""
    if failed.observed is None:
        yield Advice(f"{failed.title}: there is no number to judge. {failed.reason}. Run the evaluation steps again.")
        return
    if failed.inconclusive:
        yield from accuracy.more_images(failed, run)
    for check in CHECKS:
        if failed.name in check.names:
            yield from check.advise(run)
