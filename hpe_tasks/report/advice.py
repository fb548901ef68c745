"""What to try next when the gate refuses a model: settings that this run has not used yet."""

from __future__ import annotations

from hpe_tasks.gate.checks import advise
from hpe_tasks.gate.checks.base import Advice
from hpe_tasks.report.records import RunRecords


def next_steps(records: RunRecords) -> tuple[Advice, ...]:
    """What may lift the failed checks, most promising first, each once; empty when the gate passed or has not run."""
    if records.decision is None or records.decision.passed:
        return ()
    return tuple(dict.fromkeys(advice for check in records.decision.failed for advice in advise(check, records)))
