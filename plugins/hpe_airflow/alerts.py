"""What people are told of without looking: refused and failed runs, late ones, drift, and promotions.

Each is a notifier of Airflow's: one sentence and a link. Where it goes to, `alert_channels` says.
"""

from __future__ import annotations

import logging
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk.bases.notifier import BaseNotifier

from hpe_airflow.failures import SHARDS, reason_of
from hpe_airflow.links import airflow_run_path, report_path, version_path
from hpe_airflow.task_links import model_version_path
from hpe_tasks.errors import HpeError, SupersededError, shortened

if TYPE_CHECKING:
    from airflow.sdk.definitions.deadline import DeadlineAlert

    from hpe_airflow.alert_channels import AlertChannel

LATE_VARIABLE = "HPE_ALERT_LATE_HOURS"

_LONGEST = 600

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alert:
    """What is told.

    Attributes:
        text: One sentence.
        path: Page of Airflow's API server that shows more.
    """

    text: str
    path: str

    @property
    def link(self) -> str:
        """Address of the page, as the server's `base_url` has it."""
        from airflow.configuration import conf

        base = conf.get("api", "base_url", fallback="") or "http://localhost:8080"
        return base.rstrip("/") + self.path


class AlertNotifier(BaseNotifier):
    """Tells something to every channel that Airflow has a connection for.

    It has no templated field: names and errors come from files of unknown origin, and are never rendered.
    """

    @abstractmethod
    def alert(self, context: Mapping[str, Any]) -> Alert | None:
        """What there is to tell; None where there is nothing.

        Raises:
            HpeError: The run's records cannot be read.
        """

    def notify(self, context: Mapping[str, Any]) -> None:
        """Tell it. What keeps it from being told is in the log: no task fails or is tried again for it."""
        from hpe_airflow.alert_channels import channels

        try:
            open_channels = channels()
            told = self.alert(context) if open_channels else None
        except HpeError as error:
            log.warning("Nobody was alerted: %s", reason_of(error))
            return
        if told is not None:
            send_alert(told, open_channels)


def send_alert(alert: Alert, found: Sequence[AlertChannel], *, longest_s: float | None = None) -> tuple[str, ...]:
    """Tell it on one line; arguments, and what comes back, are as of `alert_channels.tell`."""
    from hpe_airflow.alert_channels import tell

    return tell(found, " ".join(shortened(alert.text, longest=_LONGEST).split()), alert.link, longest_s=longest_s)


class FailedTask(AlertNotifier):
    """Tells that a task has failed, and why; an `on_failure_callback`."""

    def alert(self, context: Mapping[str, Any]) -> Alert | None:
        """The reason on one line, and the task's page, which has its log."""
        instance, error = context["ti"], context.get("exception")
        if isinstance(error, SupersededError):
            return None  # Another attempt goes on.
        task = instance.task_id.removesuffix(SHARDS)
        page = f"{airflow_run_path(instance.dag_id, instance.run_id)}/tasks/{quote(instance.task_id, safe='')}"
        return Alert(f"{instance.dag_id}: {task} failed: {reason_of(error)}", page)


class RefusedModel(AlertNotifier):
    """Tells that a run's model was refused by its gate, with the first check that failed.

    It follows the task that writes the report, which the link opens. A checkpoint below its floor has failed a task,
    and was told of then.
    """

    def alert(self, context: Mapping[str, Any]) -> Alert | None:
        """The first failed check, and the report."""
        from hpe_airflow.runs import open_run_from_context
        from hpe_tasks.pipeline import steps

        run = open_run_from_context(context)
        decision = run.recorded(steps.gate)
        if decision is None or decision.passed:
            return None
        failed = decision.failed
        more = f", and {len(failed) - 1} more of its checks failed" if len(failed) > 1 else ""
        judged = "its gate is inconclusive" if decision.inconclusive else "it failed its gate"
        name = run.config.destination.name
        return Alert(f"{name} was not published, {judged}: {failed[0].reason}{more}.", report_path(run.name))


class PromotedVersion(AlertNotifier):
    """Tells that a channel serves another version; follows the task `promote`."""

    def alert(self, context: Mapping[str, Any]) -> Alert | None:
        """Channel, version, and what it served before; the version's page."""
        from hpe_airflow.runs import open_run_from_context
        from hpe_tasks.pipeline import steps

        run = open_run_from_context(context)
        moved = run.recorded(steps.promote)
        if moved is None or moved.previous_version == moved.version:
            return None
        text = served_text(moved.name, moved.channel, moved.version, moved.previous_version)
        return Alert(f"{text}.", version_path(run.name))


def served_text(name: str, channel: str, version: str, previous: str | None) -> str:
    """That a channel serves another version."""
    return f"{name}: channel {channel} now serves {version}" + (f", in place of {previous}" if previous else "")


def moved_alert(name: str, channel: str, version: str, previous: str | None, *, how: str, note: str) -> Alert:
    """That a person has moved a channel.

    Args:
        name: The model.
        channel: What was moved.
        version: What it serves now.
        previous: What it served before; None for nothing, or where that is not known.
        how: What was done, and by whom, such as "promoted by ada".
        note: Why, in the words of who has done it; may be empty.
    """
    why = f": {note.strip().rstrip('.')}" if note.strip() else ""
    text = f"{served_text(name, channel, version, previous)}, {how}{why}."
    return Alert(text, model_version_path(name, version))


class DriftedRequests(AlertNotifier):
    """Tells that the function's requests have drifted; follows the task that looks for reasons to quantize again."""

    def alert(self, context: Mapping[str, Any]) -> Alert | None:
        """How they differ, and the run that has looked."""
        from hpe_airflow.watching import report_of

        report = report_of(context)
        drifted = [trigger.reason for trigger in report.triggers if trigger.kind == "drift"] if report else []
        if report is None or not drifted:
            return None
        text = f"{report.name}: what the function sees has drifted: {'; '.join(drifted)}."
        return Alert(text, airflow_run_path(context["ti"].dag_id, context["ti"].run_id))


class LateRun(AlertNotifier):
    """Tells that a run has not ended in time; called for a deadline, with no more than the run's outlines."""

    def alert(self, context: Mapping[str, Any]) -> Alert | None:
        """Which run, since when it should have ended, and its page."""
        run, due = context["dag_run"], context["deadline"]["deadline_time"]
        due = due if isinstance(due, datetime) else datetime.fromisoformat(str(due))
        text = (
            f"{run['dag_id']}: the run {run['dag_run_id']} is late: it is {run['state']}, and should have ended by "
            f"{due.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
        )
        return Alert(text, airflow_run_path(run["dag_id"], run["dag_run_id"]))


def late_alert() -> DeadlineAlert | None:
    """The `deadline` of a DAG: HPE_ALERT_LATE_HOURS after a run was queued; None where that is not set.

    Raises:
        ValueError: The variable holds no number above 0.
    """
    text = (os.environ.get(LATE_VARIABLE) or "").strip()
    if not text:
        return None
    from airflow.sdk.definitions.callback import SyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= 24 * 365:
        raise ValueError(f"{LATE_VARIABLE}={text!r} is not a number of hours above 0: write 12, or 0.5.")
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=hours),
        callback=SyncCallback(LateRun),
        name="late",
    )
