"""The task in which a person says whether a channel may serve the version that a run has published."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from hpe_airflow.orphans import is_supervised
from hpe_airflow.runs import open_run_from_context
from hpe_airflow.task_log import quiet_others, reason_first, tell_rows
from hpe_airflow.tasks import AFTER_WHAT_MAY_BE_SKIPPED, Approvals
from hpe_tasks.errors import ConfigError, MissingInputError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import Run

if TYPE_CHECKING:
    from airflow.sdk import Context

TASK = "approve"

PATIENCE = timedelta(days=7)
"""How long a run waits for an answer, before it fails. Another run of the DAG waits behind it."""

log = logging.getLogger(__name__)


class ChannelApproval(ApprovalOperator):
    """Asks whether the channel may serve the published version, with the gate's table and the served version's figures.

    The answer is kept in the run: `promote` looks there, however it is started.
    """

    def execute(self, context: Context) -> Any:
        """Ask; skipped where HPE_APPROVE_CHANNELS does not name the run's channel, and where it is pinned: it stays.

        Raises:
            ConfigError: Nobody could answer: `airflow dags test` or `tasks test` runs the task.
            MissingInputError: Nothing was published.
        """
        quiet_others()
        return reason_first(TASK, partial(self._ask, context))

    def _ask(self, context: Context) -> Any:
        run = open_run_from_context(context)
        if not asks(run):
            raise AirflowSkipException("HPE_APPROVE_CHANNELS does not name the channel.")
        if not is_supervised():
            raise ConfigError(
                f"The channel {run.config.destination.channel!r} moves only when a person approves it, and nobody can "
                "be asked here.",
                hint="Run the DAG in Airflow, or unset HPE_APPROVE_CHANNELS for this test.",
            )
        from hpe_airflow.approval_text import question

        published = _published(run)
        if published.kept_by_pin:
            raise AirflowSkipException(published.kept_by_pin)
        self.subject, self.body = question(run, published)
        tell_rows("A person is asked", {**_named(run, published), "waits for": f"{PATIENCE.days} days at most"})
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Keep what was answered, and go on, or leave the channel where it is."""
        quiet_others()
        return reason_first(TASK, partial(self._take_answer, context, event))

    def _take_answer(self, context: Context, event: dict[str, Any]) -> Any:
        if "error" not in event:
            _keep(open_run_from_context(context), event, approved=event["chosen_options"] == [self.APPROVE])
        return super().execute_complete(context, event)


def asks(run: Run) -> bool:
    """Whether a run asks a person before its channel moves."""
    from hpe_tasks.pipeline.approvals import approval_required

    return approval_required(run.config)


def channel_approval() -> Approvals:
    """The task before `promote`."""
    return Approvals(before=steps.promote, task_id=TASK, ask=_task, wanted=asks)


def _task() -> ChannelApproval:
    return ChannelApproval(
        task_id=TASK,
        subject="May the channel serve the published version?",
        doc_md="Ask a person whether the channel may serve the version; only where HPE_APPROVE_CHANNELS names it.",
        # A person's time, and not that of the work, is what may run out.
        execution_timeout=None,
        response_timeout=PATIENCE,
        trigger_rule=AFTER_WHAT_MAY_BE_SKIPPED,
    )


def _published(run: Run) -> Any:
    published = run.find(steps.publish)
    if published is None:
        raise MissingInputError("Nothing was published that a channel could serve.", hint="Run `publish` first.")
    return published


def _keep(run: Run, event: Mapping[str, Any], *, approved: bool) -> None:
    from hpe_tasks.pipeline.approvals import Approval, keep_approval

    published, user = _published(run), event.get("responded_by_user") or {}
    by = str(user.get("name") or user.get("id") or "unknown")
    approval = Approval(
        name=published.name,
        version=published.version,
        manifest_sha256=published.manifest.sha256,
        channel=run.config.destination.channel,
        approved=approved,
        by=by,
        at=datetime.now(UTC),
    )
    keep_approval(run, approval)
    answer = {"answer": "approved" if approved else "refused", "by": by, "at": f"{approval.at:%Y-%m-%d %H:%M:%S %Z}"}
    tell_rows("A person has answered", {**_named(run, published), **answer})


def _named(run: Run, published: Any) -> dict[str, str]:
    """What the question is about."""
    return {"model": published.name, "version": published.version, "channel": run.config.destination.channel}
