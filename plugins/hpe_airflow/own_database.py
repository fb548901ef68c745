"""A database of its own for each `airflow dags test` and `airflow tasks test`, where Airflow is kept in SQLite.

Both commands write their run into the metadata database, as running, and work on it themselves. A scheduler that uses
the same database (`make ui`) takes such a run for its own: it runs tasks a second time, kills those of the command, and
ends itself when `tasks test` deletes the run. So these commands work on a copy, which has the connections, variables,
pools and DAGs of the moment at which they began. Nobody else sees it, and it is removed when they end. What a
`dags test` did is then entered into the database that it came from (`history`): every run there has ended.

Other databases, of workers and schedulers on several machines, are left as they are.
"""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from hpe_airflow.history import enter_runs, note_runs

log = logging.getLogger(__name__)

_LAUNCHERS = {"airflow", "-m", "__main__.py"}
_TESTS = {("dags", "test"), ("tasks", "test")}
_locks: list[int] = []


def take_own_database(argv: Sequence[str]) -> None:
    """Have Airflow use a copy of its database in this process, if that is one of the two commands and SQLite.

    Args:
        argv: The process's command line.
    """
    if not is_test(argv):
        return
    from airflow import settings
    from airflow.configuration import conf

    database = _sqlite_file(conf.get("database", "sql_alchemy_conn"))
    if database is None or not database.is_file():
        return  # Without a database Airflow says by itself that there is none.
    copy = _copy(database)
    if argv[1] == "dags":
        note_runs(copy)
    atexit.register(_finish, database, copy, os.getpid(), has_history=argv[1] == "dags")
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{copy}"
    if conf.has_option("database", "sql_alchemy_conn_async"):
        os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = f"sqlite+aiosqlite:///{copy}"
    settings.configure_vars()  # type: ignore[no-untyped-call]


def is_test(argv: Sequence[str]) -> bool:
    """Whether a command line is one of the two commands that work on a run by themselves."""
    # An executor hands tasks to workers, who ask the API server, which knows its own database alone.
    given = tuple(argv)
    return Path(given[0]).name in _LAUNCHERS and given[1:3] in _TESTS and "--use-executor" not in given


def _sqlite_file(url: str) -> Path | None:
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def _copy(database: Path) -> Path:
    """A consistent copy, also while others write; those that killed commands have left are removed."""
    folder = database.with_name(f"{database.name}.tests")
    folder.mkdir(mode=0o700, exist_ok=True)
    _remove_left_behind(folder)
    handle, name = tempfile.mkstemp(dir=folder, suffix=".lock")
    fcntl.flock(handle, fcntl.LOCK_EX)
    _locks.append(handle)  # Held as long as this process lives.
    copy = Path(name).with_suffix(".db")
    copy.touch(mode=0o600)
    with closing(sqlite3.connect(database)) as original, closing(sqlite3.connect(copy)) as target:
        original.backup(target)
    return copy


def _remove_left_behind(folder: Path) -> None:
    for lock in folder.glob("*.lock"):
        try:
            with lock.open("r+") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock.with_suffix(".db").exists():  # One without has just been made.
                    _remove(lock.with_suffix(".db"))
        except (BlockingIOError, FileNotFoundError):
            continue


def _remove(copy: Path) -> None:
    for suffix in (".db", ".db-wal", ".db-shm", ".db-journal", ".lock"):
        copy.with_suffix(suffix).unlink(missing_ok=True)


def _finish(database: Path, copy: Path, process: int, *, has_history: bool) -> None:
    if os.getpid() != process:
        return  # A task's process, which is a fork of this one.
    try:
        if has_history:
            enter_runs(copy, database)
    except sqlite3.Error as error:
        log.warning("Airflow's history in %s does not show this run: %s", database, error)
    finally:
        _remove(copy)
