"""The embedded S3 server: ministack as a process of its own, on loopback, with its data in one folder.

It lets the whole pipeline run on a machine without Docker or an AWS account. ministack pins libraries that conflict
with ours, so it lives in its own virtual environment (`docker/object-store/requirements.txt`), and only its Python
interpreter is named here. It runs behind a guard (`guarded_ministack`): no page that is open in a browser here reaches
it. It knows only the access key below; that keeps mistakes apart, not attackers: every process of this machine can use
the port.

Used as `python -m hpe_tasks.local.object_store start|stop|status`, or from Python::

    with ObjectStore(folder, python) as server:
        client = make_client(**server.client_settings)

Linux only: a process is recognized through `/proc`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pydantic import ValidationError

from hpe_tasks.config.base import Frozen
from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.errors import AccessError, ConfigError, HpeError, StorageError
from hpe_tasks.local.guarded_ministack import ENDS_WITH, HEALTH, STAYS_IN
from hpe_tasks.local.processes import command_line, start_ticks
from hpe_tasks.storage.folders import locked
from hpe_tasks.storage.s3 import S3Location, make_client, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

HOST = "127.0.0.1"
ACCESS_KEY_ID = "hpe-local"
SECRET_ACCESS_KEY = "hpe-local-secret"
REGION = "us-east-1"
DEFAULT_BUCKET = "hpe-models"

_LAUNCHER = Path(__file__).with_name("guarded_ministack.py")
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_PORT_PATIENCE_S = 2.0
_POLL_S = 0.05
_START_ATTEMPTS = 3
_LOG_LINES_SHOWN = 5


class Server(Frozen):
    """A running server, as its `server.json` tells.

    Attributes:
        process_started: Start time of the process in clock ticks after boot: with the pid, it names one process.
        command: Its command line.
    """

    pid: int
    process_started: int
    command: tuple[str, ...]
    port: int
    bucket: str

    @property
    def is_guarded(self) -> bool:
        """Whether it refuses web pages; one that was started by an earlier version of this project does not."""
        return any(Path(argument).name == _LAUNCHER.name for argument in self.command)

    @property
    def endpoint(self) -> str:
        """Address for S3 clients."""
        return f"http://{HOST}:{self.port}"

    @property
    def client_settings(self) -> dict[str, str]:
        """Keyword arguments of `make_client`."""
        return {
            "endpoint_url": self.endpoint,
            "aws_access_key_id": ACCESS_KEY_ID,
            "aws_secret_access_key": SECRET_ACCESS_KEY,
            "region_name": REGION,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The usual AWS variables, with which boto3 finds the server by itself."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self) -> S3Client:
        """A new client of this server."""
        return make_client(**self.client_settings)


class ObjectStore:
    """An S3 server whose data, log and address lie in one folder.

    Args:
        data_dir: Made if missing. Nothing is written anywhere else.
        python: Interpreter of the virtual environment that holds ministack.
        port: Port on 127.0.0.1; 0 takes the one of the last time if it is free, else any free one.
        bucket: Made at the start if missing, with versioning.
    """

    def __init__(self, data_dir: Path, python: Path, *, port: int = 0, bucket: str = DEFAULT_BUCKET) -> None:
        self.data_dir = data_dir.absolute()
        # Not resolved: a virtual environment's interpreter is a link, and the link's place makes the environment.
        self.python = python.absolute()
        self._port = port
        self._bucket = bucket

    @property
    def log_file(self) -> Path:
        """What the server printed, since it was started last."""
        return self.data_dir / "server.log"

    def status(self) -> Server | None:
        """The running server; None when it is not running or does not answer."""
        server = self._recorded()
        return server if server is not None and _is_running(server) and _answers(server.port) else None

    def start(self) -> Server:
        """Start the server, or find it running; once it is up, it outlives this process, and `stop` ends it.

        Safe to call at the same time from several processes: one starts it, the others wait and find it.

        Raises:
            ConfigError: The interpreter is missing, or the port is taken.
            StorageError: The server does not come up; the message holds the end of its log.
        """
        return self._start(stays=True)

    def _start(self, *, stays: bool) -> Server:
        with self._locked():
            server = self.status()
            if server is None or not server.is_guarded:
                self._stop_recorded()  # one that hangs, or is open
                server = self._launch(stays)
            _prepare_bucket(server)
            return server

    def stop(self) -> bool:
        """Stop the server and wait until it has gone; False when it was not running."""
        if not self.data_dir.is_dir():
            return False
        with self._locked():
            return self._stop_recorded()

    def __enter__(self) -> Server:
        """As `start`, but a server that is started here ends with this process, however that ends."""
        return self._start(stays=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _address_file(self) -> Path:
        return self.data_dir / "server.json"

    def _recorded(self) -> Server | None:
        try:
            return Server.model_validate_json(self._address_file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise StorageError(
                f"{self._address_file} is not the address of a server.", hint="Delete it, and start the server again."
            ) from error

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.data_dir / "server")

    def _launch(self, stays: bool) -> Server:
        if not self.python.is_file():
            raise ConfigError(
                f"The embedded S3 server is not installed: {self.python} does not exist.",
                hint="Run `make setup`, or install docker/object-store/requirements.txt in a virtual environment.",
            )
        for _ in range(_START_ATTEMPTS):
            try:
                return self._launch_on(self._choose_port(), stays)
            except _PortTakenError:
                # Another process took the free port between our look and the server's start.
                continue
        raise StorageError(f"Every free port on {HOST} was taken before the server could use it.")

    def _launch_on(self, port: int, stays: bool) -> Server:
        # -I: neither the working directory nor PYTHON* variables lead the server to libraries of ours.
        command = (str(self.python), "-I", str(_LAUNCHER))
        (self.data_dir / "tmp").mkdir(exist_ok=True)
        with self.log_file.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self.data_dir,
                env=self._server_environment(port) | self._lifetime(stays),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C in the terminal that started it does not end it.
                start_new_session=True,
            )
        try:
            started = self._wait_for_answer(process, port)
            server = Server(pid=process.pid, process_started=started, command=command, port=port, bucket=self._bucket)
            partial = self._address_file.with_suffix(".part")
            partial.write_text(server.model_dump_json(indent=2) + "\n", encoding="utf-8")
            partial.replace(self._address_file)
        except BaseException:  # Ctrl-C as well: nobody would know of it.
            process.kill()
            process.wait()
            raise
        # The server outlives this object: without a status, Popen would warn of a child left behind.
        process.returncode = 0
        return server

    def _wait_for_answer(self, process: subprocess.Popen[bytes], port: int) -> int:
        """Wait until a new server answers; its start time."""
        started = start_ticks(process.pid)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while process.poll() is None and not _answers(port):
            if time.monotonic() > deadline:
                raise StorageError(f"The embedded S3 server does not answer on port {port}. {self._log_end()}")
            time.sleep(_POLL_S)
        if process.poll() is not None or started is None:
            if "already in use" in self._log_end():
                raise _PortTakenError
            raise StorageError(f"The embedded S3 server ended with status {process.returncode}. {self._log_end()}")
        return started

    def _lifetime(self, stays: bool) -> dict[str, str]:
        """With this process, or with it only until `stop` knows of the server."""
        return {ENDS_WITH: str(os.getpid())} | ({STAYS_IN: str(self._address_file)} if stays else {})

    def _server_environment(self, port: int) -> dict[str, str]:
        """Nothing is inherited but PATH: AWS variables of the user must not reach the server."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.data_dir),
            "TMPDIR": str(self.data_dir / "tmp"),
            "BIND_HOST": HOST,
            "GATEWAY_PORT": str(port),
            "SERVICES": "s3",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            # It would remove containers of its own on the machine's Docker: it is not to look for one.
            "DOCKER_HOST": f"unix://{self.data_dir / 'no-docker.sock'}",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.data_dir / "state"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.data_dir / "s3"),
            "AUTH": "true",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "LOG_LEVEL": "WARNING",
        }

    def _choose_port(self) -> int:
        last = self._recorded()
        for candidate in (self._port,) if self._port else (last.port if last else 0, 0):
            # A server that was just killed holds its port until all of its threads are gone.
            deadline = time.monotonic() + _PORT_PATIENCE_S
            while True:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind((HOST, candidate))
                    except OSError:
                        if time.monotonic() > deadline:
                            break
                    else:
                        return int(probe.getsockname()[1])
                time.sleep(_POLL_S)
        raise ConfigError(
            f"Port {self._port or 'any'} on {HOST} is not free.", hint="Choose another one, or 0 for any that is free."
        )

    def _stop_recorded(self) -> bool:
        server = self._recorded()
        if server is None or not _is_running(server):
            return False
        for sign, patience_s in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, _STOP_TIMEOUT_S)):
            with suppress(ProcessLookupError):
                os.kill(server.pid, sign)
            deadline = time.monotonic() + patience_s
            while time.monotonic() < deadline:
                if not _is_running(server):
                    with suppress(ChildProcessError):  # only a child of ours leaves something to collect
                        os.waitpid(server.pid, os.WNOHANG)
                    return True
                time.sleep(_POLL_S)
        raise StorageError(f"The embedded S3 server (process {server.pid}) cannot be stopped.")

    def _log_end(self) -> str:
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"The end of {self.log_file}: {' | '.join(lines[-_LOG_LINES_SHOWN:]) or 'empty'}"


class _PortTakenError(Exception):
    """Another process listens on the port."""


def _prepare_bucket(server: Server) -> None:
    """Make the bucket; the server forgets versioning when it is killed, so that is set at every start."""
    from botocore.exceptions import ClientError

    client = server.client()
    with s3_errors(S3Location(server.bucket, ""), "creating the bucket"):
        try:
            client.create_bucket(Bucket=server.bucket)
        except ClientError as error:
            if error_code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise
        client.put_bucket_versioning(Bucket=server.bucket, VersioningConfiguration={"Status": "Enabled"})


def _answers(port: int) -> bool:
    """Whether ministack, and not some other server, is ready on this port."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", HEALTH)
        response = connection.getresponse()
        return response.status == http.client.OK and "s3" in json.loads(response.read()).get("services", {})
    except (OSError, http.client.HTTPException, ValueError):
        return False
    finally:
        connection.close()


def _is_running(server: Server) -> bool:
    """Whether the recorded process runs, and the pid was not given to another one."""
    return start_ticks(server.pid) == server.process_started and command_line(server.pid) == server.command


def _as_exports(server: Server) -> str:
    # A session token or a profile of the user would be sent along with our key.
    lines = ["unset AWS_SESSION_TOKEN AWS_SECURITY_TOKEN AWS_PROFILE"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in server.environment.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start, stop or look at the server from a shell; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hpe_tasks.local.object_store", description="The embedded S3 server."
    )
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument("--data-dir", type=Path, default=Path(".hpe/object-store"), help="default: %(default)s")
    parser.add_argument(
        "--python",
        type=Path,
        default=Path(".venv-object-store/bin/python"),
        help="interpreter of the environment with ministack; default: %(default)s",
    )
    parser.add_argument("--port", type=int, default=0, help="default: any free one, the same again if it can be")
    parser.add_argument("--bucket", default=DEFAULT_BUCKET, help="made if missing; default: %(default)s")
    parser.add_argument("--env", action="store_true", help="print shell commands that set the AWS variables")
    options = parser.parse_args(arguments)
    store = ObjectStore(options.data_dir, options.python, port=options.port, bucket=options.bucket)
    try:
        if options.action == "stop":
            print("stopped" if store.stop() else "was not running", file=sys.stderr)
            return 0
        server = store.start() if options.action == "start" else store.status()
    except HpeError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | AccessError) else 3
    if server is None:
        print(f"not running (data in {store.data_dir})", file=sys.stderr)
        return 1
    print(_as_exports(server) if options.env else server.endpoint)
    return 0


if __name__ == "__main__":
    sys.exit(main())
