from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hpe_airflow.history import enter_runs, note_runs
from hpe_airflow.own_database import is_test, take_own_database

from support import airflow_home

DAG = "hpe_requantize"
NOW = "2026-11-22 10:00:00.000000"


@pytest.mark.parametrize(
    ("command", "own"),
    [
        pytest.param("/venv/bin/airflow tasks test hpe_requantize gate 2026-01-01", True, id="tasks test"),
        pytest.param("/venv/bin/airflow dags test hpe_requantize", True, id="dags test"),
        pytest.param("-m dags test hpe_requantize", True, id="python -m airflow"),
        pytest.param("/venv/bin/airflow dags test hpe_requantize --use-executor", False, id="executor"),
        pytest.param("/venv/bin/airflow tasks list test", False, id="another command"),
        pytest.param("/venv/bin/airflow scheduler", False, id="scheduler"),
        pytest.param("/venv/bin/airflow", False, id="no command"),
        pytest.param("/venv/bin/pytest dags test", False, id="another program"),
        pytest.param("", False, id="no program"),
    ],
)
def test_the_two_commands_are_known_by_their_command_line(command: str, own: bool) -> None:
    assert is_test(command.split(" ")) is own


SAY = (
    "import sys; sys.argv = ['airflow', *sys.argv[1:]]\n"
    "from airflow import settings\n"
    "print(settings.engine.url.render_as_string())\n"
    "from sqlalchemy import text\n"
    "with settings.engine.begin() as own:\n"
    "    print(own.execute(text('SELECT count(*) FROM connection WHERE conn_id = \\'mine\\'')).scalar())\n"
    "    own.execute(text('DELETE FROM connection'))\n"
)


@pytest.fixture
def home(tmp_path: Path, airflow_database: None) -> Path:
    """A home with a database that knows a connection."""
    (tmp_path / ".airflow").mkdir()
    copied(airflow_home.prepare() / ".airflow/airflow.db", tmp_path / ".airflow/airflow.db")
    with closing(sqlite3.connect(tmp_path / ".airflow/airflow.db")) as database, database:
        # Tests of DAGs in this process have entered theirs.
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in tables - {"alembic_version", "log_template", "slot_pool", "sqlite_sequence"}:
            database.execute(f"DELETE FROM {table}")
        database.execute(
            "INSERT INTO connection (conn_id, conn_type, is_encrypted, is_extra_encrypted) VALUES ('mine', 'aws', 0, 0)"
        )
    return tmp_path


def copied(database: Path, copy: Path) -> Path:
    with closing(sqlite3.connect(database)) as one, closing(sqlite3.connect(copy)) as other:
        one.backup(other)
    return copy


def test_a_process_of_tasks_test_works_on_a_copy_that_ends_with_it(home: Path) -> None:
    folder = home / ".airflow/airflow.db.tests"
    folder.mkdir()
    for suffix in (".lock", ".db", ".db-wal"):
        (folder / "killed").with_suffix(suffix).touch()
    done = subprocess.run(
        [sys.executable, "-c", SAY, "tasks", "test"],
        env=os.environ | airflow_home.environment(home),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    url, connections = done.stdout.splitlines()
    # It knows what the other one knew, leaves that alone, and is gone, with what a killed command had left.
    assert url.startswith(f"sqlite:///{folder}/")
    assert connections == "1"
    with closing(sqlite3.connect(home / ".airflow/airflow.db")) as shared:
        assert shared.execute("SELECT count(*) FROM connection").fetchone() == (1,)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgresql+psycopg2://airflow@db/airflow", id="PostgreSQL"),
        pytest.param("sqlite:////nowhere/airflow.db", id="none yet"),
        pytest.param("sqlite://", id="in memory"),
    ],
)
def test_other_databases_are_left_as_they_are(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
    take_own_database(["airflow", "tasks", "test"])
    assert os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == url


class Database:
    """Airflow's metadata database, as much as a run needs."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def add(self, table: str, row: dict[str, Any]) -> None:
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        with closing(sqlite3.connect(self.file)) as database, database:
            database.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.file)) as database:
            assert database.execute("PRAGMA foreign_key_check").fetchall() == []
            return database.execute(question).fetchall()

    def add_version(self, number: int, digest: str) -> str:
        version = uuid.uuid4().hex
        stamps = {"created_at": NOW, "last_updated": NOW}
        row = {"id": version, "version_number": number, "dag_id": DAG, "bundle_name": "dags-folder"}
        self.add("dag_version", row | stamps)
        row = {"id": uuid.uuid4().hex, "dag_id": DAG, "dag_hash": digest, "dag_version_id": version, "data": "{}"}
        self.add("serialized_dag", row | stamps)
        return version

    def add_run(self, name: str, tasks: dict[str, str | None], version: str, *, state: str, by: str = "TEST") -> None:
        self.add(
            "dag_run",
            {
                "dag_id": DAG,
                "run_id": name,
                "state": state,
                "run_type": "manual",
                "triggered_by": by,
                "run_after": NOW,
                "logical_date": name,
                "updated_at": NOW,
                "created_dag_version_id": version,
            },
        )
        ((number,),) = self.ask(f"SELECT id FROM dag_run WHERE run_id = '{name}'")
        for task, ended in tasks.items():
            self.add(
                "task_instance",
                {
                    "id": uuid.uuid4().hex,
                    "task_id": task,
                    "dag_id": DAG,
                    "run_id": name,
                    "state": ended,
                    "pid": 7,
                    "try_number": 1,
                    "pool": "default_pool",
                    "pool_slots": 1,
                    "dag_version_id": version,
                    "start_date": NOW if ended else None,
                },
            )
            self.add(
                "xcom",
                {
                    "dag_run_id": number,
                    "task_id": task,
                    "key": "return_value",
                    "dag_id": DAG,
                    "run_id": name,
                    "value": '"done"',
                    "timestamp": NOW,
                },
            )

    def add_dag(self) -> None:
        self.add("dag_bundle", {"name": "dags-folder", "active": 1})
        self.add(
            "dag",
            {
                "dag_id": DAG,
                "is_paused": 0,
                "is_stale": 0,
                "bundle_name": "dags-folder",
                "timetable_type": "x",
                "partition_mapper_info": "{}",
                "max_active_tasks": 16,
                "max_consecutive_failed_dag_runs": 0,
                "has_task_concurrency_limits": 0,
            },
        )


@pytest.fixture
def shared(home: Path) -> Database:
    return Database(home / ".airflow/airflow.db")


def own(shared: Database) -> Database:
    database = Database(copied(shared.file, shared.file.with_name("own.db")))
    note_runs(database.file)
    return database


STATES = """
    SELECT run_id, dag_run.state, task_id, task_instance.state FROM dag_run JOIN task_instance USING (run_id)
    ORDER BY 1, 3
"""


def test_runs_that_came_to_an_end_or_not_are_entered_as_ended(shared: Database) -> None:
    shared.add_dag()
    version = shared.add_version(1, "same")
    shared.add_run("before", {"gate": "success"}, version, state="success")
    copy = own(shared)
    # Another scheduler's process has worked meanwhile: numbers of rows differ.
    shared.add_run("meanwhile", {"gate": "running"}, version, state="running", by="UI")
    copy.add_run("ended", {"gate": "success", "publish": "skipped"}, version, state="success")
    copy.add_run("killed", {"gate": "running", "publish": None}, version, state="running")
    assert enter_runs(copy.file, shared.file) == ["ended", "killed"]
    assert shared.ask(STATES) == [
        ("before", "success", "gate", "success"),
        ("ended", "success", "gate", "success"),
        ("ended", "success", "publish", "skipped"),
        ("killed", "failed", "gate", "failed"),
        ("killed", "failed", "publish", None),
        ("meanwhile", "running", "gate", "running"),
    ]
    of_its_run = shared.ask("SELECT dag_run.run_id, xcom.run_id FROM xcom JOIN dag_run ON dag_run_id = dag_run.id")
    assert len(of_its_run) == 6
    assert all(one == other for one, other in of_its_run)
    assert shared.ask("SELECT DISTINCT pid FROM task_instance WHERE run_id IN ('ended', 'killed')") == [(None,)]


def test_a_run_is_entered_once_and_never_over_one_of_the_scheduler(shared: Database) -> None:
    shared.add_dag()
    version = shared.add_version(1, "same")
    copy = own(shared)
    shared.add_run("scheduled", {"gate": "running"}, version, state="running", by="UI")
    shared.add_run("again", {"gate": "failed"}, version, state="failed")
    for name in ("scheduled", "again"):
        copy.add_run(name, {"gate": "success"}, version, state="success")
    assert enter_runs(copy.file, shared.file) == ["again"]
    assert shared.ask(STATES) == [("again", "success", "gate", "success"), ("scheduled", "running", "gate", "running")]


def test_a_run_that_was_started_waits_for_the_scheduler_with_its_note(shared: Database) -> None:
    shared.add_dag()
    version = shared.add_version(1, "same")
    shared.add_run("watch__there", {"gate": "running"}, version, state="running", by="OPERATOR")
    copy = own(shared)
    shared.add_run("watch__meanwhile", {"gate": "running"}, version, state="running", by="OPERATOR")
    copy.add_run("looked", {"gate": "success"}, version, state="success")
    for name in ("watch__meanwhile", "watch__new"):
        copy.add_run(name, {"gate": None}, version, state="queued", by="OPERATOR")
        (number,) = copy.ask(f"SELECT id FROM dag_run WHERE run_id = '{name}'")[0]
        note = {"dag_run_id": number, "content": f"why {name}", "created_at": NOW, "updated_at": NOW}
        copy.add("dag_run_note", note)
    assert enter_runs(copy.file, shared.file) == ["looked", "watch__new"]
    assert shared.ask(STATES) == [
        ("looked", "success", "gate", "success"),
        ("watch__meanwhile", "running", "gate", "running"),
        ("watch__new", "queued", "gate", None),
        ("watch__there", "running", "gate", "running"),
    ]
    notes = "SELECT run_id, content FROM dag_run_note JOIN dag_run ON dag_run.id = dag_run_id"
    assert shared.ask(notes) == [("watch__new", "why watch__new")]


def test_a_deleted_run_does_not_come_back(shared: Database) -> None:
    shared.add_dag()
    shared.add_run("before", {"gate": "success"}, shared.add_version(1, "same"), state="success")
    copy = own(shared)
    with closing(sqlite3.connect(shared.file)) as database, database:
        for table in ("xcom", "task_instance", "dag_run"):
            database.execute(f"DELETE FROM {table}")
    assert enter_runs(copy.file, shared.file) == []


def test_a_run_belongs_to_the_version_of_the_dag_that_the_database_knows(shared: Database) -> None:
    new = own(shared)
    new.add_dag()
    first = new.add_version(1, "first")
    new.add_run("one", {"gate": "success"}, first, state="success")
    assert enter_runs(new.file, shared.file) == ["one"]  # A database that has never seen the DAG.
    copy = own(shared)
    # The UI has read a changed DAG at the same time, and so has the command.
    theirs = shared.add_version(2, "second")
    ours = copy.add_version(2, "second")
    unknown = copy.add_version(3, "third")
    copy.add_run("two", {"gate": "success"}, ours, state="success")
    copy.add_run("three", {"gate": "success"}, unknown, state="success")
    assert enter_runs(copy.file, shared.file) == ["two", "three"]
    found = shared.ask("SELECT run_id, dag_version_id FROM task_instance ORDER BY 1")
    assert found == [("one", first), ("three", theirs), ("two", theirs)]


def test_an_asset_that_a_run_has_changed_starts_what_waits_for_it(shared: Database) -> None:
    shared.add_dag()
    version = shared.add_version(1, "same")
    asset = {"name": "model", "uri": "model", '"group"': "hpe", "extra": "{}", "created_at": NOW, "updated_at": NOW}
    copy = own(shared)
    shared.add("asset", {"id": 7, **asset})
    copy.add("asset", {"id": 3, **asset})
    copy.add_run("one", {"promote": "success"}, version, state="success")
    copy.add(
        "asset_event",
        {"asset_id": 3, "extra": "{}", "source_dag_id": DAG, "source_run_id": "one", "timestamp": NOW},
    )
    copy.add("asset_dag_run_queue", {"asset_id": 3, "target_dag_id": DAG, "created_at": NOW})
    enter_runs(copy.file, shared.file)
    assert shared.ask("SELECT asset_id, source_run_id FROM asset_event") == [(7, "one")]
    assert shared.ask("SELECT asset_id, target_dag_id FROM asset_dag_run_queue") == [(7, DAG)]


def test_a_database_that_cannot_be_written_to_is_left_as_it_was(
    shared: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.add_dag()
    version = shared.add_version(1, "same")
    copy = own(shared)
    copy.add_run("one", {"gate": "success"}, version, state="success")
    monkeypatch.setattr("hpe_airflow.history._PATIENCE_S", 0.1)
    with closing(sqlite3.connect(shared.file)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            enter_runs(copy.file, shared.file)
    assert shared.ask(STATES) == []
