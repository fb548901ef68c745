"""Which run of the pipeline belongs to a run of Airflow, and what it has come to: tasks say it, others ask for it.

It lies in XComs, so that scheduler and API server learn it without the run's settings or its workspace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun
    from sqlalchemy.orm import Session

RUN_KEY = "hpe_run"
"""XCom of each task with the name of the pipeline's run."""

VERDICT_KEY = "hpe_verdict"
"""XCom of a run's last task: what the run has come to, in a sentence or two."""


def kept_value(dag_run: DagRun, key: str, session: Session) -> str | None:
    """What the tasks of an Airflow run have last said under a key; None where they have not."""
    from airflow.models.xcom import XComModel
    from sqlalchemy import select

    found: Any = session.scalars(
        select(XComModel.value)
        .where(XComModel.dag_run_id == dag_run.id, XComModel.key == key)
        .order_by(XComModel.timestamp.desc())
        .limit(1)
    ).first()
    return None if found is None else str(found)
