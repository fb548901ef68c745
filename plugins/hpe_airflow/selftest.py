"""The self-test as a task: its table in the log, its page in the workspace, and a failure where a guard fails."""

from __future__ import annotations

import io
import logging

from hpe_airflow.connections import s3_client
from hpe_airflow.task_log import quiet_others, reason_first
from hpe_tasks.config.environment import Settings

log = logging.getLogger(__name__)


def try_guards() -> str:
    """Run the self-test; the address of its page.

    Raises:
        SelfTestError: A guard has let its fault through, or has stopped the healthy run.
    """
    quiet_others()
    return reason_first("try_guards", _try_guards)


def _try_guards() -> str:
    from rich.console import Console

    from hpe_tasks.report.selftest_page import selftest_table
    from hpe_tasks.selftest.running import keep_selftest, refuse_failed, run_selftest
    from hpe_tasks.storage.opening import open_workspace

    places = Settings.from_environment()
    record = run_selftest(places.cache, on_trial=lambda trial: log.info("%s: %s", trial.name, trial.outcome))
    page = keep_selftest(record, open_workspace(places.workspace, s3=s3_client, cache=places.cache))
    text = io.StringIO()
    Console(file=text, width=160).print(selftest_table(record))
    log.info("%s\n%s", page, text.getvalue())
    refuse_failed(record)
    return page
