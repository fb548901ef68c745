"""The watch as two tasks: a look at the channel that a run would publish to, and the run that is started for a reason.

Between the two tasks only the workspace is shared, so that each may be run alone.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException

from hpe_airflow.connections import s3_client, use_web_connections
from hpe_airflow.params_form import config_from_params
from hpe_airflow.runs import run_name
from hpe_airflow.task_log import quiet_others, reason_first, tell_rows
from hpe_tasks.config.addresses import credentials_in
from hpe_tasks.config.environment import Settings
from hpe_tasks.errors import MissingInputError, shortened
from hpe_tasks.pipeline.runs import FIRST_PIPELINE
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.opening import open_workspace

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

    from hpe_tasks.records.watch import WatchReport
    from hpe_tasks.storage.workspace import Workspace

_LONGEST_NOTE = 950
"""Characters; Airflow keeps a note of 1000."""

_STARTED = "trigger_run_id"
"""XCom in which Airflow keeps the id of a run that a task has started."""

log = logging.getLogger(__name__)


class StartedRunLink(BaseOperatorLink):
    """Opens the run that was started."""

    name = "Started run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Address of the run in the UI; empty where none was started."""
        started = BaseXCom.get_value(ti_key=ti_key, key=_STARTED)  # type: ignore[arg-type]
        return f"/dags/{FIRST_PIPELINE}/runs/{quote(str(started), safe='')}" if started else ""


def evaluate_triggers() -> str:
    """Say which triggers fire, and keep it for the next task; skipped where there is nothing to do.

    Raises:
        HpeError: Checkpoint, data set, registry or log are not there, denied or out of reach.
    """
    quiet_others()
    return reason_first("evaluate_triggers", _evaluate)


def _evaluate() -> str:
    from airflow.sdk import get_current_context
    from airflow.sdk.log import mask_secret

    from hpe_tasks.report.watch_table import watch_title
    from hpe_tasks.watching.looking import look
    from hpe_tasks.watching.settings import WatchSettings

    use_web_connections()
    context, places = get_current_context(), Settings.from_environment()
    config = config_from_params(context["params"])
    for credential in credentials_in(config):
        mask_secret(credential)
    workspace = _workspace()
    settings = WatchSettings.from_environment()
    report = look(config, workspace=workspace, cache=places.cache, s3=s3_client, settings=settings)
    log.info("%s", _shown(report))
    ours = report.claimed is not None and report.claimed.by == _claimant(context)
    if not report.due and not ours:
        raise AirflowSkipException(watch_title(report))
    workspace.write(_kept(context), report.model_dump_json(indent=1).encode())
    return report.note


def report_of(context: Mapping[str, Any] | Context) -> WatchReport | None:
    """What the look of this run has found, where there was something to do; None otherwise."""
    from hpe_tasks.records.watch import WatchReport

    data = _workspace().read(_kept(context))
    return None if data is None else WatchReport.model_validate_json(data)


def start_requantize() -> None:
    """Start one run of the pipeline for what the task before has found, with the reasons in the run's note.

    Skipped where somebody else has started the run.

    Raises:
        MissingInputError: Nothing was found by this run.
    """
    quiet_others()
    reason_first("start_requantize", _start)


def _start() -> None:
    from airflow.sdk import get_current_context

    from hpe_tasks.watching.claims import claim_start

    context, workspace = get_current_context(), _workspace()
    report = report_of(context)
    if report is None:
        raise MissingInputError(
            "No reason to quantize again was found by this run.", hint="Run evaluate_triggers before."
        )
    if claim_start(workspace, report, _claimant(context), datetime.now(UTC)) is None:
        raise AirflowSkipException(f"Somebody else has started {report.run_id} for this.")
    tell_rows(
        f"A run of {FIRST_PIPELINE} is started",
        {"run": report.run_id, "model": report.name, "channel": report.channel, "why": report.note},
    )
    # What TriggerDagRunOperator does, without its import, which takes as long as all else in the DAG's file. The run's
    # id follows from the reason: started twice, as by a task that was killed here, it is there already.
    raise DagRunTriggerException(
        trigger_dag_id=FIRST_PIPELINE,
        dag_run_id=report.run_id,
        conf=_settings(context["params"], report),
        logical_date=None,
        reset_dag_run=False,
        skip_when_already_exists=True,
        wait_for_completion=False,
        allowed_states=[],
        failed_states=[],
        poke_interval=60,
        deferrable=False,
        note=shortened(report.note, longest=_LONGEST_NOTE),
    )


def _settings(params: Mapping[str, Any], report: WatchReport) -> dict[str, Any]:
    """What the run is asked: what this one was told to watch."""
    given = {key: value for key, value in params.items() if value is not None}
    given |= {f"model.{key}": value for key, value in report.model.items() if value is not None}
    if report.checkpoint_sha256 is not None:
        given["model.checkpoint_sha256"] = report.checkpoint_sha256
    return given


def _workspace() -> Workspace:
    places = Settings.from_environment()
    return open_workspace(places.workspace, s3=s3_client, cache=places.cache)


def _claimant(context: Mapping[str, Any] | Context) -> str:
    return f"hpe_watch, run {run_name(context)}"


def _kept(context: Mapping[str, Any] | Context) -> str:
    """File of the workspace that hands a look on to the task after it."""
    return f"watching/looks/{digest_of(run_name(context))[:16]}.json"


def _shown(report: WatchReport) -> str:
    from rich.console import Console

    from hpe_tasks.report.watch_table import watch_tables

    text = io.StringIO()
    console = Console(file=text, width=160)
    for part in watch_tables(report):
        console.print(part)
    return text.getvalue()
