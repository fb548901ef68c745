"""Tasks that nobody watches any more end.

A task's process is a child of a supervisor, which tells the API server that it lives. Where the supervisor is killed
alone, the task would go on unseen, beside the one that the scheduler starts in its place.
"""

from __future__ import annotations

import os
import signal

from hpe_tasks.local.processes import end_with_parent


def end_with_supervisor() -> None:
    """Have a task's process killed when its supervisor ends; does nothing where a command runs the task itself."""
    if is_supervised():
        # SIGKILL, as the machine's end would be: SIGTERM lets Airflow tell the supervisor first, which is not there.
        end_with_parent(signal.SIGKILL, os.getppid())


def is_supervised() -> bool:
    """Whether Airflow runs this process for a task; not in `dags test` and `tasks test`, which run tasks themselves."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import CommsDecoder

    # Their process has a shell for its parent.
    return isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), CommsDecoder)
