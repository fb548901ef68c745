"""What a run has come to, in the words of its report."""

from __future__ import annotations

from hpe_tasks.errors import shortened
from hpe_tasks.pipeline.runs import Run

_LONGEST = 700


def verdict_text(run: Run) -> str:
    """The verdict of a run with what was refused, or why it failed, in a few lines of text."""
    from hpe_tasks.pipeline.collected import records_of
    from hpe_tasks.report.records import verdict_of

    records = records_of(run)
    verdict = verdict_of(records)
    refused = () if records.decision is None else records.decision.failed
    told = " ".join([f"{verdict.title}. {verdict.detail}", *(f"{check.title}: {check.reason}." for check in refused)])
    return shortened(told, longest=_LONGEST)
