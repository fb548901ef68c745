"""Runs by command beside a running UI, whose scheduler takes over whatever run it finds in its database."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import requests

from hpe_tasks.local.object_store import Server
from hpe_tasks.local.processes import end_with_parent
from support import airflow_home
from support.airflow_server import AirflowServer, airflow_server, prepare_home
from support.airflow_server import start as start_server
from support.left_behind import Everything
from support.tiny_inputs import tiny_settings

__all__ = ["airflow_server"]

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(1800)]

DAG = "hpe_requantize"
AIRFLOW = str(Path(sys.executable).with_name("airflow"))


def start(home: Path, server: Server, *command: str, output: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    environment = os.environ | airflow_home.environment(home) | server.environment | {"NO_COLOR": "1"}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509 - no other thread starts processes
    )


def started_tasks(said: str) -> list[str]:
    return re.findall(r"\[DAG TEST\] starting task_id=(\w+)", said)


def test_commands_and_the_ui_work_at_the_same_time(airflow_server: AirflowServer) -> None:
    """A run of the UI, one by `dags test` and tasks by `tasks test`, over each other: none of them sees the others."""
    home, server = airflow_server.home, airflow_server.store
    settings = {**airflow_server.settings, "destination.smoke_test": False}
    session = airflow_server.session("operator")
    runs = f"{airflow_server.url}/api/v2/dags/{DAG}/dagRuns"
    body = {"logical_date": None, "conf": settings, "dag_run_id": "by-the-ui"}
    session.post(runs, json=body, timeout=60).raise_for_status()

    whole = start(home, server, AIRFLOW, "dags", "test", DAG, "2026-04-01", "--conf", json.dumps(settings))
    alone = start(
        *(home, server, AIRFLOW, "tasks", "test", DAG, "preflight", "2026-05-01"),
        *("--task-params", json.dumps(settings)),
    )
    said_alone, _ = alone.communicate()
    assert "preflight: " in said_alone, said_alone[-3000:]
    said, _ = whole.communicate()
    assert whole.returncode == 0, said[-3000:]
    check_told(said)
    # So does the UI's own run, which takes longer.
    assert airflow_server.wait(session, "by-the-ui/taskInstances/fetch_dataset", {"success", "failed"}) == "success"

    check_shown(airflow_server, session, runs=2)


def check_told(said: str) -> None:
    """Each task once, and by the command: the console lost some of them to the scheduler."""
    tasks = started_tasks(said)
    assert len(tasks) == len(set(tasks))
    assert {"preflight", "quantize", "gate", "publish", "report"} <= set(tasks)


def check_shown(server: AirflowServer, session: requests.Session, *, runs: int) -> None:
    """The UI has lived through it and shows the command's run; nothing is left of the copies."""
    url = f"{server.url}/api/v2/dags/{DAG}/dagRuns"
    shown: list[dict[str, Any]] = session.get(url, timeout=30).json()["dag_runs"]
    (by_command,) = [run for run in shown if run["triggered_by"] == "test"]
    assert len(shown) == runs
    assert by_command["state"] == "success"
    assert by_command["logical_date"].startswith("2026-04-01")
    states = session.get(f"{url}/{by_command['dag_run_id']}/taskInstances", timeout=30).json()["task_instances"]
    assert {task["task_id"]: task["state"] for task in states}["quantize"] == "success"
    assert {task["try_number"] for task in states if task["state"] == "success"} == {1}
    events = session.get(f"{server.url}/api/v2/assets/events", timeout=30).json()["asset_events"]
    assert by_command["dag_run_id"] in {event["source_run_id"] for event in events}
    assert server.process.poll() is None
    assert list((server.home / ".airflow/airflow.db.tests").iterdir()) == []


def test_a_ui_that_is_started_meanwhile_leaves_a_run_by_command_alone(
    home: Path, s3_server: Server, tmp_path: Path
) -> None:
    settings = json.dumps({**tiny_settings(tmp_path), "destination.smoke_test": False})
    file = tmp_path / "said.txt"
    with file.open("w") as output:
        whole = start(*(home, s3_server, AIRFLOW, "dags", "test", DAG, "2026-04-01", "--conf", settings), output=output)
    deadline = time.monotonic() + 120
    while "preflight" not in started_tasks(file.read_text()):
        assert whole.poll() is None, file.read_text()[-3000:]
        assert time.monotonic() < deadline, file.read_text()[-3000:]
        time.sleep(0.2)
    server = start_server(home, s3_server)
    try:
        assert whole.poll() is None, "the run has ended before the UI had started"
        assert whole.wait(600) == 0, file.read_text()[-3000:]
        check_told(file.read_text())
        check_shown(server, server.session("operator"), runs=1)
    finally:
        server.stop()


@pytest.fixture
def home() -> Iterator[Path]:
    home = prepare_home()
    yield home
    shutil.rmtree(home, ignore_errors=True)


def tool(home: Path, server: Server, name: str, *options: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start one of the tools as make does; what stands above it, and the program itself."""
    top = start(home, server, sys.executable, str(airflow_home.REPOSITORY / "tools" / name), *options)
    program = psutil.Process(top.pid)
    for _ in range(2):  # Its guards.
        program = first_child(program)
    return top, program


def first_child(process: psutil.Process) -> psutil.Process:
    deadline = time.monotonic() + 60
    while not (below := process.children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return below[0]


def wait_for_line(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if re.search(pattern, line):
            return said
    pytest.fail(said)


@pytest.mark.parametrize(
    ("whose", "number"),
    [
        pytest.param("guard", signal.SIGTERM, id="guard, SIGTERM"),
        pytest.param("program", signal.SIGKILL, id="program, SIGKILL"),
        pytest.param("all of them", signal.SIGKILL, id="all of them, SIGKILL"),
    ],
)
def test_an_ended_ui_leaves_no_airflow(home: Path, s3_server: Server, whose: str, number: signal.Signals) -> None:
    top, program = tool(home, s3_server, "ui.py", "--port", "0", "--timeout", "300")
    wait_for_line(top, "Airflow is ready")
    everything = Everything(top.pid)
    assert everything.runs("scheduler")
    signal_to(top, program, whose, number)
    assert everything.left() == []


def signal_to(top: subprocess.Popen[str], program: psutil.Process, whose: str, number: signal.Signals) -> None:
    pids = {"guard": [top.pid], "program": [program.pid], "all of them": [top.pid, program.ppid(), program.pid]}[whose]
    for pid in pids:
        os.kill(pid, number)
    top.wait()


@pytest.mark.parametrize(
    ("whose", "number"),
    [
        pytest.param("guard", signal.SIGINT, id="guard, SIGINT"),
        pytest.param("program", signal.SIGTERM, id="program, SIGTERM"),
        pytest.param("guard", signal.SIGKILL, id="guard, SIGKILL"),
        pytest.param("program", signal.SIGKILL, id="program, SIGKILL"),
        pytest.param("all of them", signal.SIGKILL, id="all of them, SIGKILL"),
    ],
)
def test_an_ended_run_leaves_no_airflow(
    home: Path, s3_server: Server, tmp_path: Path, whose: str, number: signal.Signals
) -> None:
    conf = json.dumps(tiny_settings(tmp_path))
    top, program = tool(home, s3_server, "run_dag.py", "--conf", conf)
    wait_for_line(top, "preflight")
    everything = Everything(top.pid)
    assert everything.runs("dags")
    signal_to(top, program, whose, number)
    assert everything.left() == []
    # No run is left that a scheduler would go on with.
    with closing(sqlite3.connect(home / ".airflow/airflow.db")) as database:
        assert database.execute("SELECT * FROM dag_run WHERE state NOT IN ('success', 'failed')").fetchall() == []
