"""A cluster of processes as `make cluster` runs it, whose services tests kill, restart and cut off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

REPOSITORY = Path(__file__).resolve().parents[2]
START_S = 420.0
RUN_S = 900.0
ANSWER_S = 240.0
"""The first answer to a task of an API server whose machine is busy with something else took 154 s."""
BUCKET = "hpe-models"

QUICK = {
    # A task whose worker has gone is noticed within half a minute; by default it takes five.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_DETECTION_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    # All services share two processors with the tests: an answer may take long.
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
    "OMP_NUM_THREADS": "1",
    # Workers import once what else each task's process would import anew; most of a small task's time is that.
    "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": json.dumps(
        {"imports": ["torch", "onnx", "onnxruntime", "great_expectations"]}
    ),
}


@dataclass
class ProcessCluster:
    """A running cluster.

    Attributes:
        home: Folder of all services.
        process: `python -m tools.cluster up`.
        direct: AWS variables that lead past whatever stands before the S3 server.
        dag: Whose runs are meant.
    """

    home: Path
    process: subprocess.Popen[str]
    direct: Mapping[str, str] = field(default_factory=dict)
    dag: str = "hpe_requantize"
    said: list[str] = field(default_factory=list)
    _session: requests.Session | None = None

    # --- where things are ---

    @property
    def told(self) -> dict[str, Any]:
        """What `cluster.json` says now."""
        text: dict[str, Any] = json.loads((self.home / "cluster.json").read_text())
        return text

    @property
    def url(self) -> str:
        return str(self.told["url"])

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to look at workspace and registry, past whatever stands before S3."""
        given: dict[str, str] = self.told["environment"]
        return {name: value for name, value in given.items() if name.startswith(("AWS_", "HPE_"))} | dict(self.direct)

    def log(self, service: str, last: int = 4000) -> str:
        """The end of what a service has printed."""
        return (self.home / service / f"{service}.log").read_text(errors="replace")[-last:]

    # --- Airflow ---

    def of(self, dag: str) -> ProcessCluster:
        """The same cluster, asked for the runs of another DAG."""
        return replace(self, dag=dag)

    @property
    def _dag_url(self) -> str:
        return f"{self.url}/api/v2/dags/{self.dag}"

    def session(self) -> requests.Session:
        """A session that is logged in; one is enough."""
        if self._session is None:
            self._session = self._log_in()
        return self._session

    def _log_in(self) -> requests.Session:
        told = self.told
        session = requests.Session()
        login = {"username": told["user"], "password": told["password"]}
        answer = requests.post(f"{told['url']}/auth/token", json=login, timeout=ANSWER_S)
        answer.raise_for_status()
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return session

    def get(self, path: str) -> Any:
        """What the API says of a run or task; asked again where a service is just being started again."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                answer = self.session().get(f"{self._dag_url}/dagRuns/{path}", timeout=ANSWER_S)
                answer.raise_for_status()
                return answer.json()
            except requests.RequestException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def trigger(self, settings: Mapping[str, Any], run: str = "") -> str:
        """Start a run; returns its id."""
        run = run or f"run-{uuid.uuid4().hex[:8]}"
        body = {"logical_date": None, "conf": settings, "dag_run_id": run}
        self.session().post(f"{self._dag_url}/dagRuns", json=body, timeout=ANSWER_S).raise_for_status()
        return run

    def wait(self, path: str, until: set[str], patience_s: float = RUN_S) -> str:
        """Wait for one of these states of a run, or of a task as `RUN/taskInstances/TASK`."""
        deadline = time.monotonic() + patience_s
        state = None
        while time.monotonic() < deadline:
            state = self.get(path)["state"]
            if state in until:
                return str(state)
            time.sleep(0.5)
        pytest.fail(f"{path} is {state} after {patience_s} s\n{self.states(path.partition('/')[0])}")

    def tasks(self, run: str) -> dict[str, dict[str, Any]]:
        """The task instances of a run by their name."""
        return {task["task_id"]: task for task in self.get(f"{run}/taskInstances")["task_instances"]}

    def states(self, run: str) -> dict[str, tuple[str | None, int]]:
        """State and number of attempts of each task."""
        return {name: (task["state"], task["try_number"]) for name, task in self.tasks(run).items()}

    def clear(self, run: str, task: str, *, downstream: bool = True) -> int:
        """Have a task and what follows it run again; the number of the attempt that comes."""
        tries = int(self.tasks(run)[task]["try_number"])
        asked: Any = {
            "dry_run": False,
            "dag_run_id": run,
            "task_ids": [task],
            "include_downstream": downstream,
            "only_failed": False,
            "reset_dag_runs": True,
        }
        answer = self.session().post(f"{self._dag_url}/clearTaskInstances", json=asked, timeout=ANSWER_S)
        assert answer.status_code == 200, answer.text
        return tries + 1

    def parts(self, run: str, task: str) -> dict[int, dict[str, Any]]:
        """The instances of a task that is mapped, by their number."""
        instances = self.get(f"{run}/taskInstances/{task}/listMapped")["task_instances"]
        return {int(part["map_index"]): part for part in instances}

    def xcom(self, run: str, task: str, key: str) -> Any:
        """What a task has pushed."""
        return self.get(f"{run}/taskInstances/{task}/xcomEntries/{key}")["value"]

    def worker_of(self, run: str, task: str, attempt: int, *, part: int | None = None) -> str:
        """The worker that has or had a task, or one of its parts, by the log that it writes."""
        (worker,) = (log.relative_to(self.home).parts[0] for log in self._logs(run, task, attempt, part))
        return worker

    def task_log(self, run: str, task: str, attempt: int) -> str:
        """What an attempt at a task has said: in S3 once it has ended, and until then on the disk of its worker.

        A worker empties its file as soon as the log is in S3.
        """
        files = list(self._logs(run, task, attempt))
        # Before S3: what is moved in between is found twice, and never missed.
        said = "".join(file.read_text(errors="replace") for file in files)
        keys = {file.relative_to(self.home).as_posix().partition("/.airflow/")[2] for file in files}
        client = self._s3()
        for key in sorted(keys):
            with suppress(client.exceptions.NoSuchKey):  # not yet, or never: its worker was killed
                said = client.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode(errors="replace") + said
        return said

    def _s3(self) -> Any:
        import boto3

        given = self.environment
        return boto3.client(
            "s3",
            endpoint_url=given["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
            region_name=given["AWS_DEFAULT_REGION"],
        )

    def _logs(self, run: str, task: str, attempt: int, part: int | None = None) -> Iterator[Path]:
        mapped = "" if part is None else f"map_index={part}/"
        name = f"dag_id={self.dag}/run_id={run}/task_id={task}/{mapped}attempt={attempt}.log"
        return self.home.glob(f"*/.airflow/logs/{name}")

    # --- processes ---

    def pid(self, service: str) -> int:
        """The process of a service, which is waited for where it is just being started again."""
        deadline = time.monotonic() + 60
        while (pid := self.told["services"][service]["pid"]) is None or not psutil.pid_exists(pid):
            assert time.monotonic() < deadline, f"{service} is not started again"
            time.sleep(0.1)
        return int(pid)

    def end(self, service: str, number: signal.Signals) -> int:
        """Signal a service's process; its id."""
        pid = self.pid(service)
        os.kill(pid, number)
        return pid

    def kill(self, service: str, *, with_children: bool = True) -> list[int]:
        """kill -9: the whole machine, or the service alone; the processes that are left."""
        process = psutil.Process(self.pid(service))
        below = process.children(recursive=True)
        process.kill()
        if with_children:
            for child in below:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            return []
        return [child.pid for child in below]

    def started_again(self, service: str, killed: int, patience_s: float = 60.0) -> None:
        """Wait until a service has another process."""
        deadline = time.monotonic() + patience_s
        while self.told["services"][service]["pid"] in {None, killed}:
            assert time.monotonic() < deadline, f"{service} is not started again"
            time.sleep(0.1)

    def hpe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command `hpe` with the cluster's workspace and S3, and a cache of its own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment = inherited | self.environment | {"HPE_CACHE": str(self.home / "hpe-cache")}
        command = [sys.executable, "-m", "hpe_tasks", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def free_ports(number: int) -> list[int]:
    """Ports on loopback that nobody listens on; different ones."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    try:
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@contextmanager
def process_cluster(
    *,
    settings: Mapping[str, Mapping[str, str]] | None = None,
    ports: Mapping[str, int] | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    direct: Mapping[str, str] | None = None,
) -> Iterator[ProcessCluster]:
    """Start a cluster in a temporary folder, and stop it at the end.

    Args:
        settings: Environment variables by service; `airflow` stands for all Airflow services.
        ports: Of services that must have a certain one.
        options: Of `python -m tools.cluster up`.
        environment: Of that command.
        direct: AWS variables of commands that look at what the cluster has done.
    """
    # Not pytest's folder, which PostgreSQL's user may not enter.
    home = Path(tempfile.mkdtemp(prefix="hpe-cluster-"))
    home.chmod(0o755)
    given = {"airflow": QUICK} | {name: dict(values) for name, values in (settings or {}).items()}
    given["airflow"] = QUICK | given["airflow"]
    command = [sys.executable, "-m", "tools.cluster", "up", "--home", str(home), "--timeout", str(START_S), *options]
    for service, values in given.items():
        for name, value in values.items():
            command += ["--env", service, name, value]
    for service, port in (ports or {}).items():
        command += ["--port", service, str(port)]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=os.environ | dict(environment or {}), stdout=subprocess.PIPE, text=True
    )
    cluster = ProcessCluster(home, process, dict(direct or {}))
    try:
        assert process.stdout is not None
        for line in process.stdout:
            cluster.said.append(line)
            if "Ctrl-C stops" in line:
                break
        else:
            pytest.fail(f"The cluster did not start:\n{''.join(cluster.said)}\nSee {home}")
        _wait_for_dag(cluster)
        yield cluster
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)
    shutil.rmtree(home, ignore_errors=True)


def _wait_for_dag(cluster: ProcessCluster) -> None:
    session = cluster.session()
    deadline = time.monotonic() + START_S
    while session.get(cluster._dag_url, timeout=ANSWER_S).status_code != 200:
        assert time.monotonic() < deadline, "the DAG did not appear"
        time.sleep(0.5)


def tiny_inputs_in(client: Any, folder: Path, *, name: str = "tiny", **more: Any) -> dict[str, Any]:
    """The settings of `tiny_settings` with checkpoint and data set in the bucket: workers share nothing else."""
    from support.tiny_inputs import tiny_settings

    settings = tiny_settings(folder)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        client.upload_file(str(file), BUCKET, f"inputs/{name}/{file.relative_to(folder).as_posix()}")
    address = f"s3://{BUCKET}/inputs/{name}"
    return settings | {
        "model.checkpoint": f"{address}/random.safetensors",
        "dataset.source": f"{address}/data",
        "destination.registry": f"s3://{BUCKET}/registry",
        "destination.name": name,
        # What the smoke test asks of the emulator is tried elsewhere, and takes longer than all the rest.
        "destination.smoke_test": False,
        **more,
    }
