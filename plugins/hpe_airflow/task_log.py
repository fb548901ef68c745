"""What a task's log holds: a failure's reason before its traceback, a table at the end, nothing of other libraries'.

Airflow writes an error's traceback first, and folds it; the reason would be the last of its rows.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from hpe_tasks.errors import HpeError, TransientError
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Step

if TYPE_CHECKING:
    from rich.console import RenderableType

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
        if not _says_what_comes_next(error):
            log.error("%s failed: %s", task, reason_of(error))  # noqa: TRY400 - Airflow writes the traceback
        raise


def _says_what_comes_next(error: Exception) -> bool:
    """Whether an exception is none to who reads it: tasks skip, and start runs, by raising."""
    from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException, DownstreamTasksSkipped

    return isinstance(error, AirflowSkipException | DagRunTriggerException | DownstreamTasksSkipped)


def tell_result(run: Run, step: Step[Any], record: Any) -> None:
    """End a task's log with a table of what it has made; that of the last task shows the whole run."""
    from hpe_tasks.pipeline.collected import records_of
    from hpe_tasks.report.summary import record_table, summary_table

    _tell(step.title, summary_table(records_of(run)) if step.whatever_came else record_table(step.title, record))


def tell_rows(title: str, rows: Mapping[str, object]) -> None:
    """End the log of a task that makes no record with a table of what has come of it.

    Args:
        title: What was done.
        rows: What of it is to be known, by a word for it.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    _tell(title, table)


def _tell(title: str, table: RenderableType) -> None:
    from rich.console import Console

    text = io.StringIO()
    Console(file=text, width=_WIDTH, color_system=None).print(table)
    log.info("%s:\n%s", title, "\n".join(line.rstrip() for line in text.getvalue().splitlines()))
