"""A real Airflow with its scheduler and API server, and an S3 server that it reaches by its connection `hpe_s3`.

Started once for all tests that want it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import requests

from hpe_tasks.local.object_store import ObjectStore, Server
from support import airflow_home

START_S = 240.0


@dataclass
class AirflowServer:
    """A running Airflow.

    Attributes:
        url: Address of the UI and the API.
        passwords: By user: admin, operator, viewer.
        settings: A run's settings that take seconds and pass the gate.
    """

    url: str
    home: Path
    passwords: dict[str, str]
    settings: dict[str, Any]
    process: subprocess.Popen[str]
    store: Server

    @property
    def no_checkpoint(self) -> Path:
        """A file that is there, and that a run's first task refuses."""
        file = self.home / "no-checkpoint.safetensors"
        file.write_text("This is not a checkpoint.")
        return file

    def stop(self) -> None:
        """Stop Airflow."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def session(self, user: str) -> requests.Session:
        """A session that is logged in by a token."""
        login = {"username": user, "password": self.passwords[user]}
        answer = requests.post(f"{self.url}/auth/token", json=login, timeout=30)
        answer.raise_for_status()
        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return session

    def wait(self, session: requests.Session, path: str, until: set[str], *, patience_s: float = 400.0) -> str:
        """Ask for a run's or a task's state until it is one of `until`."""
        deadline = time.monotonic() + patience_s
        state = None
        while time.monotonic() < deadline:
            state = session.get(f"{self.url}/api/v2/dags/hpe_requantize/dagRuns/{path}", timeout=30).json()["state"]
            if state in until:
                return str(state)
            time.sleep(0.5)
        pytest.fail(f"{path} is {state} after {patience_s} s; see {self.home}/.airflow/logs")


def airflow(home: Path, *arguments: str, **variables: str) -> str:
    """Run Airflow's command line in `home`; returns what it says, on both channels."""
    return python(home, str(Path(sys.executable).with_name("airflow")), *arguments, **variables)


def python(home: Path, *arguments: str, **variables: str) -> str:
    """Run Python as `airflow` does; returns what it says, on both channels."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | airflow_home.environment(home) | {"NO_COLOR": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def prepare_home() -> Path:
    """A new home with its database and the pool for GPU tasks."""
    home = Path(tempfile.mkdtemp(prefix="airflow-server-"))
    shutil.copytree(_prepared(), home, dirs_exist_ok=True)
    return home


@cache
def _prepared() -> Path:
    """What new homes are copied from: Airflow takes ten seconds to make one."""
    home = airflow_home.prepare() / "prepared"
    home.mkdir()
    said = airflow(home, "db", "migrate")
    said += airflow(home, "pools", "set", "gpu_pool", "1", "one slot for each GPU worker")
    assert (home / ".airflow/airflow.db").is_file(), said
    return home


@pytest.fixture(scope="module")
def airflow_server() -> Iterator[AirflowServer]:
    """The running Airflow; the first test of a file that asks waits for its start."""
    # Idle it takes a sixth of a processor: it does not outlive the file.
    home = prepare_home()
    with ObjectStore(home / "object-store", airflow_home.REPOSITORY / ".venv-object-store/bin/python") as store:
        server = start(home, store)
        yield server
        server.stop()
    # The store writes its state as it ends.
    shutil.rmtree(home, ignore_errors=True)


def start(home: Path, store: Server) -> AirflowServer:
    """Start Airflow in a home that `prepare_home` has made; returns when it has read the DAG."""
    from support.tiny_inputs import tiny_settings

    # The tasks and the pages reach S3 through Airflow's connection, and by nothing else.
    s3 = store.client_settings
    airflow(
        *(home, "connections", "add", "hpe_s3", "--conn-type", "aws"),
        *("--conn-login", s3.pop("aws_access_key_id")),
        *("--conn-password", s3.pop("aws_secret_access_key")),
        *("--conn-extra", json.dumps(s3)),
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    # DAG files do not change: they are read once, not all the time beside what is tested.
    chosen = {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600", "HPE_APPROVE_CHANNELS": "guarded"}
    environment = inherited | airflow_home.environment(home) | chosen
    process = subprocess.Popen(
        [sys.executable, airflow_home.REPOSITORY / "tools/ui.py", "--port", "0", "--timeout", str(START_S)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"ready: (http://127\.0\.0\.1:\d+)", line):
            passwords = json.loads((home / ".airflow/passwords.json").read_text())
            server = AirflowServer(found[1], home, passwords, tiny_settings(home / "tiny"), process, store)
            try:
                _wait_for_dag(server)
            except BaseException:
                server.stop()
                raise
            return server
    pytest.fail(f"Airflow did not start; see {home}/.airflow/logs")


def _wait_for_dag(server: AirflowServer) -> None:
    session = server.session("admin")
    deadline = time.monotonic() + START_S
    while session.get(f"{server.url}/api/v2/dags/hpe_requantize", timeout=30).status_code != 200:
        assert time.monotonic() < deadline, "the DAG did not appear"
        time.sleep(0.5)
