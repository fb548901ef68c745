"""What a run came to, as one JSON object for programs."""

from __future__ import annotations

import json
from dataclasses import asdict

from pydantic import TypeAdapter

from hpe_tasks.report.advice import next_steps
from hpe_tasks.report.commands import Launcher, command_with
from hpe_tasks.report.records import RunRecords, verdict_of


def summary_json(records: RunRecords, *, report: str | None = None, launcher: Launcher = "hpe") -> str:
    """All records of a run by the names of RunRecords, with its verdict and what to try next.

    Args:
        records: What the run has produced.
        report: Address of its HTML report.
        launcher: What starts runs here, for the commands to try next.
    """
    # Numbers that are not finite become null: JSON has none.
    stored = json.loads(TypeAdapter(RunRecords).dump_json(records))
    advice = [
        {
            "text": item.text,
            "setting": item.setting or None,
            "command": command_with(records.requested, [item.setting], launcher) if item.setting else None,
        }
        for item in next_steps(records)
    ]
    told = {"verdict": asdict(verdict_of(records)), "next_steps": advice, "report": report}
    return json.dumps(stored | told, indent=1, allow_nan=False)
