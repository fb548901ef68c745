"""What a run does and what it has come to, printed: for people as lines and tables, for programs as one JSON object."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from hpe_tasks.pipeline.running import StepEnd
    from hpe_tasks.pipeline.runs import Run
    from hpe_tasks.pipeline.step import Step
    from hpe_tasks.report.commands import Launcher


class StderrWatch:
    """Tells on stderr how a step ended and how long it took; on a terminal also that it runs."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    def began(self, step: Step[Any]) -> None:
        """On a terminal the line stands there while the step runs."""
        if self._terminal:
            print(f"  {step.name} …", end="", flush=True, file=sys.stderr)

    def ended(self, step: Step[Any], end: StepEnd, seconds: float) -> None:
        """The line in full."""
        from hpe_tasks.pipeline.running import end_line

        # A bar may have been drawn over a terminal's line.
        again = "\r\033[K" if self._terminal else ""
        print(f"{again}  {end_line(step, end, seconds)}", flush=True, file=sys.stderr)


def print_summary(
    run: Run,
    *,
    as_json: bool = False,
    looking_back: bool = False,
    launcher: Launcher = "hpe",
    junit: Path | None = None,
) -> bool:
    """Print what the run has come to; returns whether that is good: its gate passed, or nothing is judged and all done.

    Args:
        run: The run.
        as_json: As JSON: all records of the run, its verdict, and what to try next.
        looking_back: Show what is recorded, also when inputs or code have changed since.
        launcher: What starts runs here, for the command to try next.
        junit: A file that gets the same as JUnit XML.
    """
    from hpe_tasks.pipeline.collected import records_of
    from hpe_tasks.pipeline.pipelines import pipeline_of
    from hpe_tasks.report.records import verdict_of

    records = records_of(run, looking_back=looking_back)
    report = pipeline_of(run).report_uri(run)
    if junit is not None:
        from hpe_tasks.report.junit import junit_xml
        from hpe_tasks.storage.files import write_atomically

        write_atomically(junit, junit_xml(records, report=report))
    if as_json:
        from hpe_tasks.report.as_json import summary_json

        print(summary_json(records, report=report, launcher=launcher))
    else:
        from rich.console import Console

        from hpe_tasks.report.summary import summary_table

        Console().print(summary_table(records, report=report, launcher=launcher), soft_wrap=True)
    return verdict_of(records).good
