"""The step that tells what a run has come to."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpe_tasks.errors import HpeError
from hpe_tasks.pipeline.runs import LATEST, Run
from hpe_tasks.pipeline.step import step
from hpe_tasks.pipeline.steps.inputs import dataset_of
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.run import RunReport
from hpe_tasks.storage.workspace import Scratch

if TYPE_CHECKING:
    from hpe_tasks.report.files import ReportFiles
    from hpe_tasks.report.records import RunRecords

log = logging.getLogger(__name__)


@step(RunReport, "Report", reuse=False, tell=lambda record: record.html.uri, whatever_came=True)
def report(run: Run, scratch: Scratch) -> RunReport:
    """Write the report that a person reads, whatever the run has come to."""
    from hpe_tasks.pipeline.collected import records_of
    from hpe_tasks.report.page import render_report

    records = records_of(run)
    html = render_report(records, files_of(run, records), scratch.path / "report.html")
    run.workspace.write(LATEST, json.dumps({"run": run.name}).encode())
    return RunReport(html=scratch.artifact(html))


def files_of(run: Run, records: RunRecords) -> ReportFiles:
    """What pictures and report are made of beside the records, as far as it is at hand."""
    from hpe_tasks.report.files import ReportFiles

    def at_hand(find: Callable[[], Path]) -> Path | None:
        """What can be found; a report without its pictures is better than none, and says that they are missing."""
        try:
            return find()
        except HpeError as error:
            log.warning("The report goes without a part of it: %s", error)
            return None

    def local(artifact: Artifact) -> Path | None:
        return at_hand(lambda: run.workspace.local(artifact))

    return ReportFiles(
        dataset_root=None if records.dataset is None else at_hand(lambda: dataset_of(run)[0]),
        fp32_predictions=None if records.fp32 is None else local(records.fp32.predictions),
        onnx_predictions=None if records.onnx is None else local(records.onnx.predictions),
        data_docs=None if records.validation is None else local(records.validation.data_docs),
        curves=None if records.trained is None or records.trained.curves is None else local(records.trained.curves),
    )
