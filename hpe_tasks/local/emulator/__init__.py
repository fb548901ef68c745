"""An unpacked Lambda package in AWS's Runtime Interface Emulator (RIE): invoked on this machine as Lambda would.

The emulator itself is AWS's binary, out of the wheel of aws-sam-cli; the function runs in AWS's runtime client
(awslambdaric) on Lambda's Python. Both come from an environment of their own, `docker/lambda/requirements.txt`. What
the binary leaves out is added here: an environment that holds nothing but Lambda's variables and those that are given,
a read-only package, the memory limit, and the size limit of events::

    with LambdaEmulator(folder, environment={}) as function:
        answer = function.invoke({"image": ...})

Linux only.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hpe_tasks.errors import BadInputError, ConfigError, HpeError, StorageError
from hpe_tasks.local.emulator import keeper
from hpe_tasks.local.environment import lambda_python
from hpe_tasks.local.processes import children

__all__ = ["FunctionError", "LambdaEmulator"]

HANDLER = "hpe_tasks.serving.handler.handler"
HOST = "127.0.0.1"

MAX_REQUEST_BYTES = 6 * 1024 * 1024
"""Largest event of a synchronous invocation."""

_PATH = "/2015-03-31/functions/function/invocations"
_START_TIMEOUT_S = 20.0
_STOP_TIMEOUT_S = 10.0
_ANSWER_GRACE_S = 20.0
_START_ATTEMPTS = 3
_POLL_S = 0.01
_LOG_LINES_SHOWN = 8

# Arguments: where this package lies, the script, and the script's own. With -I, Python looks for neither by itself.
_KEEPER = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
_CODE = str(Path(__file__).parents[3])

# $0 is the package. Its folder is entered after the mount: a working directory from before would stay writable.
_READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && exec "$@"'

log = logging.getLogger(__name__)


class FunctionError(HpeError):
    """The function could not start, or an invocation did not end with an answer of its own."""


class LambdaEmulator:
    """A function that can be invoked, from `with` to the end of its block.

    Args:
        package_folder: The unpacked package.
        environment: The function's own variables.
        memory_mb: Memory of the function: above it the function is killed, as Lambda does.
        timeout_s: Longest invocation, the start of the function included; whole seconds.
        python: Interpreter to run it with; by default `lambda_python`.

    Raises:
        ConfigError: The environment with the emulator is missing.
        StorageError: The emulator does not come up.
    """

    def __init__(
        self,
        package_folder: Path,
        *,
        environment: Mapping[str, str],
        memory_mb: int = 1769,
        timeout_s: float = 30,
        python: Path | None = None,
    ) -> None:
        self._package = package_folder.resolve()
        self._environment = dict(environment)
        self._memory_mb = memory_mb
        self._timeout_s = timeout_s
        self._python = python or lambda_python()
        self._cold_start_ms: float | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if not self._package.is_dir():
            raise BadInputError(f"The package {self._package} is not a folder.", hint="Unpack the .zip first.")
        emulator = _find_emulator(self._python)
        self._folder = Path(tempfile.mkdtemp(prefix="hpe-lambda-"))
        try:
            self._start(emulator)
        except BaseException:
            self._stop()
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        shutil.rmtree(self._folder)

    @property
    def cold_start_ms(self) -> float:
        """From the first request to its answer: the emulator starts the function when it is asked for the first time.

        Raises:
            FunctionError: It has not answered yet.
        """
        if self._cold_start_ms is None:
            raise FunctionError("The function has not answered yet.")
        return self._cold_start_ms

    @property
    def pid(self) -> int:
        """The function's process; another one after a timeout or when memory ran out. Raises FunctionError if none."""
        # Below the guard: the keeper, which has started the emulator, which has started the function.
        below = [] if self._keeper is None else [self._keeper.pid]
        for _ in range(3):
            below = [child for process in below for child in children(process)]
        for function in below:
            return function
        raise FunctionError("The function is not running: it starts with the first invocation.")

    def rss_bytes(self) -> int:
        """Memory of the function's process that is resident now."""
        return keeper.rss_bytes(self.pid)

    def log_text(self) -> str:
        """What the function and the emulator have written so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def invoke(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Invoke the function and wait for its answer.

        Raises:
            FunctionError: The function does not start, raised an error, ran out of time or memory, or the event or
                the answer is larger than Lambda passes on.
        """
        body = json.dumps(event).encode()
        if len(body) > MAX_REQUEST_BYTES:
            raise FunctionError(f"The event has {len(body):,} bytes: Lambda refuses more than {MAX_REQUEST_BYTES:,}.")
        said_before = self._log.stat().st_size
        began = time.monotonic()
        status, answer = self._post(body)
        elapsed_ms = (time.monotonic() - began) * 1000
        content = _parsed(answer)
        if status != http.HTTPStatus.OK or content is None or ("errorType" in content and "statusCode" not in content):
            raise FunctionError(self._what_happened(status, answer, content or {}, said_before))
        if self._cold_start_ms is None:
            self._cold_start_ms = elapsed_ms
        return content

    def _post(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=self._timeout_s + _ANSWER_GRACE_S)
        try:
            connection.request("POST", _PATH, body)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise FunctionError(f"The emulator does not answer ({error}). {self._log_end()}") from error
        finally:
            connection.close()

    def _what_happened(self, status: int, answer: bytes, content: Mapping[str, Any], said_before: int) -> str:
        """Why there is no answer of the function's own; `said_before` is the log's size before the request."""
        said = self._log.read_bytes()[said_before:]
        if keeper.KILLED.encode() in said:
            return f"The function used more than its {self._memory_mb} MB of memory and was killed."
        if answer.startswith(b"Task timed out"):
            return f"The function did not answer within {self._timeout_s:g} seconds."
        # The emulator says it in its answer, or ends the function when it is told so.
        if content.get("errorType") == "Function.ResponseSizeTooLarge" or b"maximum allowed payload size" in said:
            return "The answer is larger than the 6 MB that Lambda passes on."
        if "errorType" in content:
            what = "raised an error" if content.get("requestId") else "did not start"
            return f"The function {what}: {content['errorType']}: {content.get('errorMessage', '')}"
        return f"The function ended without an answer (status {status}). {self._log_end()}"

    @property
    def _log(self) -> Path:
        return self._folder / "function.log"

    def _start(self, emulator: Path) -> None:
        prefix = _read_only_prefix(self._package)
        for _ in range(_START_ATTEMPTS):
            self._port, api_port = _free_ports()
            command = [
                *prefix,
                str(emulator),
                *("--runtime-interface-emulator-address", f"{HOST}:{self._port}"),
                *("--runtime-api-address", f"{HOST}:{api_port}"),
                *(str(self._python), "-m", "awslambdaric", HANDLER),
            ]
            with self._log.open("wb") as output:
                self._keeper = subprocess.Popen(
                    [sys.executable, "-I", "-c", _KEEPER, _CODE, keeper.__file__, str(self._memory_mb), *command],
                    # It holds no data: when this process ends, in whatever way, the keeper reads its end.
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self._function_environment(),
                    cwd=self._package,
                    # Ctrl-C in a terminal is for this process, which then ends the function in order.
                    start_new_session=True,
                )
            if self._comes_up(self._keeper):
                return
            said = self._log_end()
            self._stop()
            if "address already in use" not in said:
                raise StorageError(f"The Lambda emulator does not come up. {said}")
        raise StorageError(f"Every free port on {HOST} was taken before the Lambda emulator could use it.")

    def _comes_up(self, process: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self._port)) == 0:
                    return True
            time.sleep(_POLL_S)
        return False

    def _stop(self) -> None:
        if self._keeper is None or self._keeper.stdin is None:
            return
        self._keeper.stdin.close()
        try:
            self._keeper.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
            raise StorageError(
                f"The Lambda emulator (kept by process {self._keeper.pid}) did not end in {_STOP_TIMEOUT_S:g} seconds."
            ) from None

    def _function_environment(self) -> dict[str, str]:
        """What Lambda sets, and the function's own variables; nothing of this process."""
        temporary = self._folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "TMPDIR": str(temporary),
            "LAMBDA_TASK_ROOT": str(self._package),
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_FUNCTION_NAME": "hpe",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self._memory_mb),
            # Of the emulator; Lambda has no such variable.
            "AWS_LAMBDA_FUNCTION_TIMEOUT": f"{self._timeout_s:.0f}",
            **self._environment,
        }

    def _log_end(self) -> str:
        lines = [line for line in self.log_text().splitlines() if line.strip() and "(rapid)" not in line]
        return f"The end of its log: {' | '.join(lines[-_LOG_LINES_SHOWN:]) or 'empty'}"


def _parsed(answer: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(answer)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _find_emulator(python: Path) -> Path:
    """The emulator's binary in the environment of this interpreter."""
    machine = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"lib/python3.*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}"
    found = sorted(python.parent.parent.glob(name))
    if not found:
        raise ConfigError(
            f"{python} has no Lambda emulator: {python.parent.parent / name} does not exist.",
            hint="Run `make setup`, or install docker/lambda/requirements.txt in that environment.",
        )
    return found[0]


def _read_only_prefix(package: Path) -> list[str]:
    """Command that runs another one in a mount namespace where the package is read-only.

    Where this machine allows no such namespace (Docker's default profile does not), the command is empty and a warning
    says that the package can be written.
    """
    unshare = shutil.which("unshare")
    if unshare is not None:
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        prefix = [unshare, *user, "--mount", "--propagation", "private", "sh", "-c", _READ_ONLY, str(package)]
        if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0:
            return prefix
    log.warning("The function can write its package here, unlike in Lambda: there are no mount namespaces.")
    return []


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind((HOST, 0))
        other.bind((HOST, 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])
