"""What happens when a task fails: which errors are tried again, and how the reason is told."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from hpe_tasks.errors import HpeError, SupersededError, TransientError, shortened
from hpe_tasks.pipeline.listing import listed_pipelines
from hpe_tasks.pipeline.runs import FIRST_PIPELINE, failure_message

if TYPE_CHECKING:
    from airflow.sdk import Context

log = logging.getLogger(__name__)

RETRIES: dict[str, Any] = {
    "retries": 4,
    "retry_delay": timedelta(seconds=20),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
    # A wrong configuration or a broken file fails the same way again. What kills a worker process never reaches this
    # policy, so a task that was lost with its machine is started again by the scheduler.
    "retry_policy": ExceptionRetryPolicy(
        rules=[RetryRule(TransientError, RetryAction.RETRY, reason="The network or a server failed; this may pass.")],
        default=RetryAction.FAIL,
    ),
}
"""Arguments for tasks: only network errors are tried again, the waits doubling from about half a minute."""


SHARDS = "_shards"
"""What the name of the tasks that make a step's parts has behind the step's."""


def log_reason(context: Mapping[str, Any] | Context) -> None:
    """Say in one sentence why a task failed, and keep it in the pipeline's run; an `on_failure_callback`."""
    task, error = context["ti"].task_id, context.get("exception")
    log.error("%s failed: %s", task, reason_of(error))
    # What the run shows is of the attempt that goes on.
    if _is_of_pipeline(context) and not isinstance(error, SupersededError):
        _keep(task.removesuffix(SHARDS), error, context)


def _is_of_pipeline(context: Mapping[str, Any] | Context) -> bool:
    """Whether there is a run to keep a reason in: the watch and the self-test have none."""
    dag_id = getattr(context.get("dag"), "dag_id", FIRST_PIPELINE)
    return dag_id in {pipeline.name for pipeline in listed_pipelines()}


def _keep(task: str, error: BaseException | str | None, context: Mapping[str, Any] | Context) -> None:
    """Keep a reason that the step has not kept itself: Airflow's time limit, or what failed around the step."""
    from hpe_airflow.runs import open_run_from_context

    try:
        run = open_run_from_context(context)
        kept, reason = run.failure(task), error or reason_of(None)
    except HpeError as second:
        # As a rule this is the reason itself, which the line above has told.
        log.info("%s: the run has no place for this reason: %s", task, reason_of(second))
        return
    if kept is None or kept.message != failure_message(reason):
        run.keep_failure(task, reason)


def reason_of(error: BaseException | str | None) -> str:
    """The reason of a failure on one line, with what to do next where the error says so."""
    if error is None:
        return "its process ended without an exception; it may have been killed."
    text = str(error) if isinstance(error, HpeError) else failure_message(error)
    return " ".join(shortened(text).split())
