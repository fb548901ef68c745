"""The services of a cluster as processes of this machine, each with a folder of its own that no other one looks into.

One that ends is started again, as compose does it. All of them end with the process that started them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hpe_tasks.local.object_store import ObjectStore, Server
from hpe_tasks.local.processes import end_with_parent
from tools.cluster.machine import HOST, User, free_ports, program, unprivileged_user
from tools.cluster.topology import REPOSITORY, Service, Topology, new_secrets

_POLL_S = 0.2
_AGAIN_AFTER_S = 1.0
_STOP_S = 20.0


class NotStartedError(Exception):
    """A service did not come up; the message names its log."""


@dataclass
class Running:
    """A service's process.

    Attributes:
        starts: How often it was started.
        died: When it ended, on the monotonic clock; None while it runs.
    """

    process: subprocess.Popen[bytes]
    starts: int = 1
    died: float | None = None


@dataclass
class Cluster:
    """The services of a topology, running.

    Attributes:
        home: Holds a folder for each service, and `cluster.json`, which tells where everything is.
        ports: Of services for which another than any free one is wanted.
        settings: Further environment variables by service; those of `airflow` are of all Airflow services.
        detours: By service, other ports at which it is to look for a service: of what a test has put between them.
        own_store: Whether to run the S3 server; otherwise the AWS variables tell where S3 is.
    """

    topology: Topology
    home: Path
    ports: dict[str, int] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    detours: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    own_store: bool = True
    running: dict[str, Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        listening = [name for name, service in self.topology.services.items() if service.port]
        chosen = dict(zip(listening, free_ports(len(listening)), strict=True))
        self.ports = chosen | self.ports
        self.secrets = self._kept_secrets()
        self._user = unprivileged_user()
        self._held = ExitStack()
        self._store: ObjectStore | None = None
        self._store_server: Server | None = None

    @property
    def url(self) -> str:
        """Address of UI and API."""
        return f"http://{HOST}:{self.ports['api-server']}"

    def _kept_secrets(self) -> dict[str, str]:
        """The secrets of this home: made at the first start, as the database remembers them."""
        self.home.mkdir(mode=0o755, parents=True, exist_ok=True)
        file = self.home / "secrets.json"
        if not file.exists():
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as text:
                json.dump(new_secrets(self.topology), text)
        kept: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
        return kept

    # --- up and down ---

    def start(self, patience_s: float, tell: Callable[[str], None]) -> None:
        """Start everything, in order, and wait until all of it answers; raises NotStartedError."""
        tell("PostgreSQL, Redis and S3")
        self._start_store()
        self._prepare_postgres()
        self._prepare_redis()
        self._prepare_login()
        for name in ("postgres", "redis"):
            self._launch(name)
        self._wait(lambda: [n for n in ("postgres", "redis") if not _listens(self.ports[n])], patience_s)
        self._create_database()
        tell("Airflow's database and pools")
        self._airflow("db", "migrate")
        for pool, slots in self.topology.pools.items():
            self._airflow("pools", "set", pool, str(slots), "One slot for each GPU")
        airflow = [name for name, service in self.topology.services.items() if service.is_airflow]
        tell(", ".join(airflow))
        for name in airflow:
            self._launch(name)
        self._wait(self.unready, patience_s)

    def keep_running(self) -> None:
        """Start again what has ended; to be called again and again."""
        for name, one in self.running.items():
            if one.process.poll() is None:
                continue
            if one.died is None:
                one.died = time.monotonic()
                self._tell_where()
            elif time.monotonic() - one.died > _AGAIN_AFTER_S:
                self._launch(name)
        if self._store is not None and self._store_server is not None and self._store.status() is None:
            self._store_server = self._store.__enter__()
            self._tell_where()

    def stop(self) -> None:
        """Stop everything: first what asks, then what is asked. Tasks are not waited for."""
        servers = ("redis", "postgres")
        _end([one.process for name, one in self.running.items() if name not in servers], signal.SIGTERM)
        # SIGINT: PostgreSQL then sends its clients away instead of waiting for them.
        _end([self.running[name].process for name in servers if name in self.running], signal.SIGINT)
        self._held.close()
        with suppress(FileNotFoundError):
            (self.home / "cluster.json").unlink()

    def unready(self) -> list[str]:
        """Services that do not answer yet."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v2/monitor/health", timeout=5) as answer:
                health = json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return ["api-server"]
        said = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}
        waiting = [name for name, key in said.items() if health[key]["status"] != "healthy"]
        workers = [name for name, service in self.topology.services.items() if service.kind == "worker"]
        return waiting + [name for name in workers if b" ready." not in self.log_file(name).read_bytes()]

    def log_file(self, name: str) -> Path:
        """What a service has printed."""
        return self.home / name / f"{name}.log"

    def _wait(self, unready: Callable[[], list[str]], patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while waiting := unready():
            ended = [name for name, one in self.running.items() if one.process.poll() is not None]
            if ended or time.monotonic() > deadline:
                name = (ended or waiting)[0]
                raise NotStartedError(f"{name} {'ended' if ended else 'is not ready'}; see {self.log_file(name)}")
            time.sleep(_POLL_S)

    # --- one service ---

    def _launch(self, name: str) -> None:
        command, environment, user = self._how(name, self.topology.services[name])
        before = self.running.get(name)
        with self.log_file(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.home / name,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is for this process, which stops them in order.
                start_new_session=True,
                preexec_fn=partial(end_with_parent, signal.SIGTERM, os.getpid()),  # noqa: PLW1509
                **user.arguments,  # type: ignore[call-overload]
            )
        self.running[name] = Running(process, starts=before.starts + 1 if before else 1)
        self._tell_where()

    def _how(self, name: str, service: Service) -> tuple[list[str], dict[str, str], User]:
        """Command, environment and user of a service."""
        (self.home / name).mkdir(mode=0o755, exist_ok=True)
        if service.kind == "postgres":
            listen = ["-h", HOST, "-p", str(self.ports[name]), "-k", ""]
            command = [program("postgres", "postgresql"), "-D", str(self.home / name / "data"), *listen]
            return command, _plain_environment(), self._user
        if service.kind == "redis":
            return [program("redis-server", "redis-server"), "redis.conf"], _plain_environment(), User()
        command = [str(Path(sys.executable).with_name("airflow")), *service.arguments]
        if service.kind == "worker":
            # Two of one machine must not be taken for one.
            command += ["--celery-hostname", f"{name}@%h"]
        return command, self.airflow_environment(name), User()

    def airflow_environment(self, name: str) -> dict[str, str]:
        """Environment of an Airflow service; nothing of the user's AWS or Airflow variables."""
        service, folder = self.topology.services[name], self.home / name
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "AIRFLOW", "HPE_FAULT"))
        }
        own = {
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW_CONFIG": str(REPOSITORY / "airflow.cfg"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
            "AIRFLOW__API__BASE_URL": self.url,
            "HPE_CACHE": str(folder / "cache"),
            "PYTHONUNBUFFERED": "1",
        }
        if service.kind == "worker":
            own["AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT"] = str(self.ports[name])
        if service.job == "TriggererJob":
            own["AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT"] = str(self.ports[name])
        if name == "api-server":
            own["AIRFLOW__API__PORT"] = str(self.ports[name])
        given = {**self.settings.get("airflow", {}), **self.settings.get(name, {})}
        detours = {other: f"{HOST}:{port}" for other, port in self.detours.get(name, {}).items()}
        return inherited | self.topology.filled(self._places() | detours) | own | given

    def _places(self) -> dict[str, str]:
        addresses = {name: f"{HOST}:{port}" for name, port in self.ports.items()}
        if self._store_server is None:
            s3 = dict(os.environ)
            addresses["s3"] = s3["AWS_ENDPOINT_URL_S3"].partition("://")[2]
        else:
            s3 = self._store_server.environment
            addresses["s3"] = f"{HOST}:{self._store_server.port}"
        keys = {"S3_ACCESS_KEY_ID": s3["AWS_ACCESS_KEY_ID"], "S3_SECRET_ACCESS_KEY": s3["AWS_SECRET_ACCESS_KEY"]}
        return self.secrets | addresses | keys

    def _airflow(self, *arguments: str) -> None:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("airflow")), *arguments],
            env=self.airflow_environment("scheduler"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotStartedError(f"airflow {' '.join(arguments)} failed:\n{done.stdout[-3000:]}")

    # --- what services need before their first start ---

    def _start_store(self) -> None:
        if self.own_store:
            python = REPOSITORY / ".venv-object-store" / "bin" / "python"
            self._store = ObjectStore(self.home / "s3", python, port=self.ports["s3"], bucket=self.topology.bucket)
            self._store_server = self._held.enter_context(self._store)

    def _prepare_postgres(self) -> None:
        folder = self.home / "postgres"
        folder.mkdir(mode=0o755, exist_ok=True)
        data, password = folder / "data", folder / "password"
        if data.exists():
            return
        self._user.own(data)
        password.touch(mode=0o600)
        if self._user.name is not None:
            os.chown(password, self._user.uid, self._user.gid)
        password.write_text(self.secrets["POSTGRES_PASSWORD"] + "\n", encoding="utf-8")
        command = [program("initdb", "postgresql"), "-D", str(data), "--username=airflow", "--auth=scram-sha-256"]
        done = subprocess.run(
            [*command, f"--pwfile={password}", "--encoding=UTF8", "--locale=C", "--no-instructions"],
            cwd="/",
            env=_plain_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **self._user.arguments,  # type: ignore[call-overload]
        )
        password.unlink()
        if done.returncode:
            data.rmdir()
            reason = f"initdb failed in {data}, which the user {self._user.name or 'of this shell'} must reach"
            raise NotStartedError(f"{reason}:\n{done.stdout[-2000:]}")

    def _create_database(self) -> None:
        done = subprocess.run(
            [
                program("createdb", "postgresql"),
                "-h",
                HOST,
                "-p",
                str(self.ports["postgres"]),
                "-U",
                "airflow",
                "airflow",
            ],
            env=_plain_environment() | {"PGPASSWORD": self.secrets["POSTGRES_PASSWORD"]},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode and "already exists" not in done.stderr:
            raise NotStartedError(f"Airflow's database cannot be made: {done.stderr}")

    def _prepare_redis(self) -> None:
        folder = self.home / "redis"
        folder.mkdir(mode=0o755, exist_ok=True)
        file = folder / "redis.conf"
        file.touch(mode=0o600)
        # What was queued is still there after a restart.
        lines = [f"bind {HOST}", f"port {self.ports['redis']}", "appendonly yes", 'save ""', "dir ."]
        file.write_text("\n".join([*lines, f"requirepass {self.secrets['REDIS_PASSWORD']}", ""]), encoding="utf-8")

    def _prepare_login(self) -> None:
        passwords = self.home / "api-server" / ".airflow" / "passwords.json"
        passwords.parent.mkdir(parents=True, exist_ok=True)
        passwords.touch(mode=0o600)
        said = {self.topology.user: self.secrets["AIRFLOW_ADMIN_PASSWORD"]}
        passwords.write_text(json.dumps(said), encoding="utf-8")

    def _tell_where(self) -> None:
        """Write `cluster.json`: for whoever watches, asks or hurts the cluster."""
        services = {
            name: {
                "pid": one.process.pid if one.process.poll() is None else None,
                "starts": one.starts,
                "port": self.ports.get(name),
                "log": str(self.log_file(name)),
            }
            for name, one in self.running.items()
        }
        if self._store_server is not None:
            services["s3"] = {"pid": self._store_server.pid, "starts": 1, "port": self._store_server.port}
        told: dict[str, Any] = {
            "url": self.url,
            "user": self.topology.user,
            "password": self.secrets["AIRFLOW_ADMIN_PASSWORD"],
            "environment": self.topology.filled(self._places()),
            "services": services,
        }
        part = self.home / "cluster.json.part"
        part.touch(mode=0o600)
        part.write_text(json.dumps(told, indent=2), encoding="utf-8")
        part.replace(self.home / "cluster.json")


def _plain_environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _end(processes: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    """Signal each process; KILL to the session of one that has not ended after a while."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
    deadline = time.monotonic() + _STOP_S
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
