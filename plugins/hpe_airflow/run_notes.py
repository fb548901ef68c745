"""A run's note says what the run has come to, so that one whose model was refused looks like no plain success.

A listener: the scheduler calls it when a run ends, and keeps what it changes of the run with the run's state. Tasks
themselves cannot write notes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl

from hpe_airflow.run_names import VERDICT_KEY, kept_value

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

_LONGEST = 1000
"""Characters; what Airflow keeps of a note."""

_MARK = "**Verdict:** "

_SEPARATOR = "\n\n---\n\n"
"""Between the verdict and what was noted before, as by `hpe_watch` or a person."""


@hookimpl
def on_dag_run_success(dag_run: DagRun, msg: str) -> None:  # noqa: ARG001 - Airflow passes it by name
    """Note the verdict of a run that has come to its end."""
    note_verdict(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: DagRun, msg: str) -> None:  # noqa: ARG001
    """Note why a run has failed."""
    note_verdict(dag_run)


def note_verdict(dag_run: DagRun) -> None:
    """Put a run's verdict before what its note holds; the verdict of an earlier attempt goes."""
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    verdict = None if session is None else kept_value(dag_run, VERDICT_KEY, session)
    if verdict is not None:
        dag_run.note = noted(verdict, dag_run.note)


def noted(verdict: str, before: str | None) -> str:
    """The note of a run that had one before, or none."""
    own = before or ""
    if own.startswith(_MARK):
        own = own.partition(_SEPARATOR)[2]
    told = f"{_MARK}{verdict}"
    kept = f"{_SEPARATOR}{own}" if own else ""
    return f"{told[: max(0, _LONGEST - len(kept))]}{kept}"[:_LONGEST]


def verdict_of_note(note: str | None) -> str:
    """The verdict that a run's note begins with; empty where it has none."""
    told = note or ""
    return told.partition(_SEPARATOR)[0].removeprefix(_MARK) if told.startswith(_MARK) else ""
