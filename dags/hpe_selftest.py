"""The DAG `hpe_selftest`: faults are planted on a healthy run, and each must be refused by its guard.

Composition only: what is planted, and which guard is to refuse it, is in `hpe_tasks.selftest`.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.sdk import dag, task
from hpe_airflow.alerts import FailedTask, late_alert
from hpe_airflow.failures import RETRIES, log_reason
from hpe_airflow.selftest import try_guards

SCHEDULE = os.environ.get("HPE_SELFTEST_SCHEDULE") or None
"""When to run by itself, such as `@weekly` or a cron expression; off by default."""

DOC = """
Tries the guards of the pipeline: leaks between calibration and evaluation, broken data and checkpoints, files that run
in float, saturate or have lost a joint, samples too small to tell, and versions that were changed after they were
published are planted on a healthy run of the drawn sample, and each must be refused by its own guard.

**It takes** a few minutes at most and some megabytes in the worker's cache; it asks neither the network nor the
registry, and publishes nothing.

**The task fails** when a guard has let its fault through, or stops the healthy run. The table of faults, guards and
what these said is in the task's log; the same as a page and as JSON is in the workspace under `selftest/`, and the
task's XCom is the page's address. `hpe selftest` does the same on the command line, `hpe selftest --only NAME` for one
fault.

**Weekly:** set `HPE_SELFTEST_SCHEDULE=@weekly` for the DAG processor and unpause the DAG.
"""


@dag(
    dag_id="hpe_selftest",
    schedule=SCHEDULE,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    # With a schedule the first unpausing starts a run at once: that is for a person to decide.
    is_paused_upon_creation=SCHEDULE is not None,
    default_args={
        **RETRIES,
        "on_failure_callback": [log_reason, FailedTask()],
        "execution_timeout": timedelta(hours=1),
    },
    tags=["pose", "quantization"],
    doc_md=DOC,
    deadline=late_alert(),
    dag_display_name="Try the pipeline's guards",
)
def hpe_selftest() -> None:
    """Plant faults, and see them refused."""
    task(task_id="try_guards", doc_md="Plant every fault on a healthy run, and try its guard.")(try_guards)()


hpe_selftest()
