"""Ctrl-C, SIGTERM and SIGKILL of `make`, in a checkout of its own: nothing that a target has started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import airflow_home
from support.left_behind import Everything
from support.package_folder import write_package

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]

_GENERATED = (".venv", ".venv-object-store", ".venv-lambda")

# Holds a server and waits, as long tests do.
WAITS = """
import time
from pathlib import Path


def test_waits(s3_server):
    assert s3_server
    Path("begun").touch()
    time.sleep(600)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """This checkout's files and libraries, with one test that waits, and state of its own."""
    top, tests = tmp_path / "checkout", tmp_path / "checkout/tests"
    listed = subprocess.run(
        ["git", "ls-files"], cwd=airflow_home.REPOSITORY, capture_output=True, text=True, check=True
    )
    names = {line.partition("/")[0] for line in listed.stdout.splitlines()} - {"tests"}
    integration = tests / "integration"
    integration.mkdir(parents=True)
    for name in (*names, *_GENERATED, "tests/conftest.py", "tests/support", "tests/integration/conftest.py"):
        (top / name).symlink_to(airflow_home.REPOSITORY / name)
    (integration / "test_waits.py").write_text(WAITS)
    yield top
    subprocess.run(["make", "stop"], cwd=top, env=_environment(), check=True)


def _environment() -> dict[str, str]:
    """As a user's shell has it."""
    ours = ("HPE_", "AIRFLOW", "AWS_", "MAKE", "PYTEST", "MFLAGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    needed = ("HPE_TEST_DATA", "HPE_TEST_SPECS", "HPE_REQUIRE_TOOLS")
    return kept | {name: os.environ[name] for name in needed if name in os.environ}


class Make:
    """A running `make`, in a group of processes of its own as a terminal's job is; what it says goes into a file."""

    def __init__(self, checkout: Path, *asked: str) -> None:
        self._log = checkout.parent / "said.txt"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                ["make", *asked], cwd=checkout, env=_environment(), stdout=output, stderr=output, process_group=0
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    def wait_until(self, what: Callable[[], bool], patience_s: float = 400) -> None:
        deadline = time.monotonic() + patience_s
        while not what():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.1)

    def end(self, way: str) -> None:
        """By `ctrl-c`, which a terminal sends to the whole group, or a signal to make alone."""
        if way == "ctrl-c":
            os.killpg(self.process.pid, signal.SIGINT)
        else:
            self.process.send_signal(signal.Signals[way])
        self.process.wait(60)


WAYS = ["ctrl-c", "SIGTERM", "SIGKILL"]


@pytest.mark.parametrize("way", WAYS)
def test_a_service_ends_with_make(checkout: Path, tmp_path: Path, way: str) -> None:
    write_package(tmp_path / "package")
    make = Make(checkout, "serve", f"PACKAGE={tmp_path / 'package'}", "PORT=0")
    make.wait_until(lambda: "http://127.0.0.1:" in make.said)
    everything = Everything(make.process.pid)
    assert len(everything.processes) > 2
    make.end(way)
    assert everything.left() == []


@pytest.mark.parametrize("way", WAYS)
def test_a_service_that_publishes_its_model_first_ends_with_make(checkout: Path, way: str) -> None:
    make = Make(checkout, "serve", "PORT=0")
    make.wait_until(lambda: "preflight" in make.said)
    everything = Everything(make.process.pid)
    assert everything.runs("dags")
    make.end(way)
    assert everything.left() == []


@pytest.mark.parametrize("way", WAYS)
def test_tests_end_with_make(checkout: Path, way: str) -> None:
    make = Make(checkout, "test", "ARGS=tests/integration/test_waits.py")
    make.wait_until((checkout / "begun").exists)
    everything = Everything(make.process.pid)
    assert any("ministack" in " ".join(process.cmdline()) for process in everything.processes)
    make.end(way)
    assert everything.left() == []
