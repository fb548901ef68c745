"""Enters the runs of an `airflow dags test`, which has worked on a copy of Airflow's database, into the original.

Rows are copied, in one transaction. A scheduler looks at runs and tasks that have not ended, so what was interrupted is
entered as failed. A run that such a run has started waits for a scheduler in the copy, where there is none: it waits in
the original.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

_PATIENCE_S = 30.0
_DAG_TABLES = ("dag", "dag_version", "serialized_dag", "dag_code")
_TASK_TABLES = ("task_instance", "task_instance_history")
_ASSET = "SELECT known.id FROM main.asset AS known JOIN copy.asset AS own USING (name, uri) WHERE own.id = ?"
_WAITING = """
    SELECT id, dag_id, run_id, logical_date FROM copy.dag_run
    WHERE triggered_by = 'OPERATOR' AND state = 'queued' AND id NOT IN (SELECT id FROM copy.hpe_runs_before)
"""
_UNFINISHED = "state IS NULL OR state NOT IN ('success', 'failed', 'skipped', 'upstream_failed', 'removed')"


def note_runs(copy: Path) -> None:
    """Keep in a new copy which runs it came with, and which DAGs were already waiting to be started by an asset."""
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("CREATE TABLE hpe_runs_before AS SELECT id, updated_at FROM dag_run")
        connection.execute("CREATE TABLE hpe_queue_before AS SELECT * FROM asset_dag_run_queue")


def enter_runs(copy: Path, database: Path) -> list[str]:
    """Enter the runs that `dags test` has made in the copy since `note_runs`; returns their ids.

    A run that the database has already, of the same id or logical date, is replaced if it came from `dags test`, and
    left as it is otherwise. Entered as well is what these runs have started, to wait for a scheduler.

    Raises:
        sqlite3.Error: The database cannot be written to. It is as before.
    """
    with closing(sqlite3.connect(database, timeout=_PATIENCE_S, isolation_level=None)) as connection:
        connection.execute("ATTACH DATABASE ? AS copy", (str(copy),))
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            runs = connection.execute(
                "SELECT id, dag_id, run_id, logical_date FROM copy.dag_run WHERE triggered_by = 'TEST' AND "
                "(id, updated_at) NOT IN (SELECT id, updated_at FROM copy.hpe_runs_before)"
            ).fetchall()
            entered = [
                run_id for number, dag_id, run_id, date in runs if _enter(connection, number, dag_id, run_id, date)
            ]
            for number, dag_id, run_id, date in connection.execute(_WAITING).fetchall():
                if _enter(connection, number, dag_id, run_id, date, waiting=True):
                    entered.append(run_id)
            if entered:
                _start_followers(connection)
            return entered


def _enter(
    connection: sqlite3.Connection, number: int, dag_id: str, run_id: str, date: str | None, *, waiting: bool = False
) -> bool:
    same = "dag_id = ? AND (run_id = ? OR logical_date = ?)"
    there = connection.execute(f"SELECT id, triggered_by FROM main.dag_run WHERE {same}", (dag_id, run_id, date))
    known = there.fetchall()
    if any(waiting or by != "TEST" for _, by in known):
        return False
    connection.executemany("DELETE FROM main.dag_run WHERE id = ?", [(row,) for row, _ in known])
    versions = _versions(connection, dag_id)
    (row,) = _rows(connection, "dag_run", "id = ?", (number,))
    row |= {"id": None, "backfill_id": None, "creating_job_id": None, "scheduled_by_job_id": None}
    row["created_dag_version_id"] = versions.get(row["created_dag_version_id"])
    if row["state"] not in {"success", "failed"} and not waiting:
        row["state"] = "failed"
    new = _insert(connection, "dag_run", row)
    mine = ("dag_id = ? AND run_id = ?", (dag_id, run_id))
    for table in _TASK_TABLES:
        for row in _rows(connection, table, *mine):
            row["dag_version_id"] = versions.get(row["dag_version_id"])
            _insert(connection, table, row | {"trigger_id": None, "pid": None})
        connection.execute(
            f"UPDATE main.{table} SET state = 'failed' WHERE {mine[0]} AND start_date IS NOT NULL AND ({_UNFINISHED})",
            mine[1],
        )
        connection.execute(f"UPDATE main.{table} SET state = NULL WHERE {mine[0]} AND ({_UNFINISHED})", mine[1])
    for row in _rows(connection, "dag_run_note", "dag_run_id = ?", (number,)):
        _insert(connection, "dag_run_note", row | {"dag_run_id": new})
    for row in _rows(connection, "xcom", *mine):
        _insert(connection, "xcom", row | {"dag_run_id": new})
    for row in _rows(connection, "asset_event", "source_dag_id = ? AND source_run_id = ?", mine[1]):
        # Of an asset that the database does not know yet nobody can be waiting for news.
        if asset := connection.execute(_ASSET, (row["asset_id"],)).fetchone():
            _insert(connection, "asset_event", row | {"id": None, "asset_id": asset[0]})
    return True


def _start_followers(connection: sqlite3.Connection) -> None:
    """DAGs that wait for an asset which a run has changed: the scheduler starts them."""
    waiting = _rows(connection, "asset_dag_run_queue", "1 EXCEPT SELECT * FROM copy.hpe_queue_before", ())
    for row in waiting:
        if asset := connection.execute(_ASSET, (row["asset_id"],)).fetchone():
            _insert(connection, "asset_dag_run_queue", row | {"asset_id": asset[0]}, otherwise="OR IGNORE")


def _versions(connection: sqlite3.Connection, dag_id: str) -> dict[object, str]:
    """Which of the database's versions of the DAG stands for each of the copy's: the same, or else its latest.

    A database that does not know the DAG yet learns it as the copy has it.
    """
    latest = "SELECT id FROM main.dag_version WHERE dag_id = ? ORDER BY version_number DESC LIMIT 1"
    if connection.execute(latest, (dag_id,)).fetchone() is None:
        bundle = "name = (SELECT bundle_name FROM copy.dag WHERE dag_id = ?)"
        for row in _rows(connection, "dag_bundle", bundle, (dag_id,)):
            _insert(connection, "dag_bundle", row, otherwise="OR IGNORE")
        for table in _DAG_TABLES:
            for row in _rows(connection, table, "dag_id = ?", (dag_id,)):
                _insert(connection, table, row, otherwise="OR IGNORE")
    (last,) = connection.execute(latest, (dag_id,)).fetchone()
    found = connection.execute(
        "SELECT made.dag_version_id, coalesce(min(same.dag_version_id), ?) FROM copy.serialized_dag AS made LEFT JOIN "
        "main.serialized_dag AS same ON same.dag_id = made.dag_id AND same.dag_hash = made.dag_hash "
        "WHERE made.dag_id = ? GROUP BY 1",
        (last, dag_id),
    )
    return dict(found.fetchall())


def _rows(connection: sqlite3.Connection, table: str, where: str, values: Iterable[object]) -> list[dict[str, object]]:
    found = connection.execute(f"SELECT * FROM copy.{table} WHERE {where}", tuple(values))
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def _insert(
    connection: sqlite3.Connection, table: str, row: Mapping[str, object], *, otherwise: str = ""
) -> int | None:
    names = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join("?" * len(row))
    return connection.execute(
        f"INSERT {otherwise} INTO main.{table} ({names}) VALUES ({marks})", tuple(row.values())
    ).lastrowid
