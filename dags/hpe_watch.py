"""The DAG `hpe_watch`: looks for a reason to quantize again, and starts `hpe_requantize`; tells of moves by hand.

Composition only: what is compared, and what counts as drift, is in `hpe_tasks.watching`; what ties it to Airflow is in
`plugins/hpe_airflow/watching.py`.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.sdk import dag, task
from hpe_airflow.alerts import DriftedRequests, FailedTask, late_alert
from hpe_airflow.failures import RETRIES, log_reason
from hpe_airflow.links import with_links
from hpe_airflow.moves import tell_moves
from hpe_airflow.params_form import form_params
from hpe_airflow.watching import StartedRunLink, evaluate_triggers, start_requantize

SCHEDULE = os.environ.get("HPE_WATCH_SCHEDULE") or None
"""When to look by itself, such as `@hourly` or a cron expression; off by default."""

DOC = """
Looks whether there is a reason to quantize again, and starts `hpe_requantize` for it: one run for one reason, with the
reason in the run's note.

**Triggers:** the checkpoint or the data set has other content than those that the channel's served version was made
of; a setting of the recipe, the gate or the evaluation is another; AIMET, onnxruntime or torch have another version
here; or the function's requests have left the distribution of its golden period (*drift*). A channel that serves
nothing yet is a reason as well.

**The same again does nothing:** where nothing fired, or a run was started for this very reason before, both tasks are
skipped, and the log of `evaluate_triggers` says why. Two looks at once start one run.

**Moves by hand** since the last look, such as by `hpe models promote`, are told by `tell_moves` wherever Airflow has a
connection for alerts; those that were told on Airflow's pages are not told again.

**What is watched** is the run that the form describes; its fields hold what `HPE_REQUANTIZE_PARAMS` says, and the run
that is started gets them. For drift `HPE_WATCH_TELEMETRY` says where the function's log is.

**By schedule:** set `HPE_WATCH_SCHEDULE=@hourly` for the DAG processor and unpause the DAG. `hpe watch` does the same
look on the command line.
"""


@dag(
    dag_id="hpe_watch",
    schedule=SCHEDULE,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    # With a schedule the first unpausing starts a run at once: that is for a person to decide.
    is_paused_upon_creation=SCHEDULE is not None,
    default_args={
        **RETRIES,
        "on_failure_callback": [log_reason, FailedTask()],
        "execution_timeout": timedelta(hours=3),
    },
    tags=["pose", "quantization"],
    doc_md=DOC,
    deadline=late_alert(),
    dag_display_name="Watch for a reason to quantize again",
)
def hpe_watch() -> None:
    """Look for a reason, and start a run for it; and tell of what was moved meanwhile."""
    look = task(
        task_id="evaluate_triggers", doc_md="Say which triggers fire.", on_success_callback=[DriftedRequests()]
    )(evaluate_triggers)()
    start = task(task_id="start_requantize", doc_md="Start one run of hpe_requantize for what fired.")(
        start_requantize
    )()
    look >> with_links(start, StartedRunLink())
    task(task_id="tell_moves", doc_md="Tell people of channels that a command has moved.")(tell_moves)()


# After its tasks, as in hpe_requantize.
hpe_watch().params.update(form_params(os.environ.get("HPE_REQUANTIZE_PARAMS")))
