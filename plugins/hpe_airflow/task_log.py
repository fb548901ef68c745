"""What a task's log holds: a failure's reason before its traceback, a table at the end, nothing of other libraries'.

Airflow writes an error's traceback first, and folds it; the reason would be the last of its rows.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from hpe_tasks.errors import HpeError, TransientError
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Step

R = TypeVar("R")

log = logging.getLogger(__name__)

_SPEAKING = ("hpe_tasks", "hpe_airflow", "airflow", "task")
"""Loggers whose information is for the people who read a task's log; of all others warnings are."""

_WIDTH = 110
"""Letters; what a log shows on a screen without a break."""


def quiet_others() -> None:
    """Leave out what other libraries tell about themselves; their warnings and errors stay."""
    root = logging.getLogger()
    if root.level == logging.INFO:  # Whoever asks for debugging gets all of it.
        root.setLevel(logging.WARNING)
        for name in _SPEAKING:
            logging.getLogger(name).setLevel(logging.INFO)


def reason_first(task: str, work: Callable[[], R]) -> R:
    """Do a task's work; where it fails, say why before Airflow writes the traceback.

    Of an error that was foreseen the traceback holds the way to here alone: where it was raised is of no use to who
    has to mend the input that it names, and is told where debugging is asked for.
    """
    from hpe_airflow.failures import reason_of

    try:
        return work()
    except TransientError as error:
        log.warning("%s: %s It is tried again, unless this was the last time.", task, reason_of(error))
        raise error.with_traceback(None) from None
    except HpeError as error:
        log.error("%s failed: %s", task, reason_of(error))  # noqa: TRY400 - the reason alone
        log.debug("It was raised here:", exc_info=error)
        raise error.with_traceback(None) from None
    except Exception as error:
        log.error("%s failed: %s", task, reason_of(error))  # noqa: TRY400 - Airflow writes the traceback
        raise


def tell_result(run: Run, step: Step[Any], record: Any) -> None:
    """End a task's log with a table of what it has made; that of the last task shows the whole run."""
    from rich.console import Console

    from hpe_tasks.pipeline.collected import records_of
    from hpe_tasks.report.summary import record_table, summary_table

    text = io.StringIO()
    table = summary_table(records_of(run)) if step.whatever_came else record_table(step.title, record)
    Console(file=text, width=_WIDTH, color_system=None).print(table)
    log.info("%s:\n%s", step.title, "\n".join(line.rstrip() for line in text.getvalue().splitlines()))
