from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.errors import CheckpointError, ConfigError
from hpe_tasks.untrusted.limits import Limits
from hpe_tasks.untrusted.reader import try_reading
from support import reading

MEGABYTE = 10**6
LIMITS = Limits(memory_bytes=50 * MEGABYTE, cpu_s=60, wall_s=120)
SHORT = Limits(memory_bytes=50 * MEGABYTE, cpu_s=1, wall_s=120)
IMPATIENT = Limits(memory_bytes=50 * MEGABYTE, cpu_s=60, wall_s=2)


@pytest.fixture(autouse=True)
def _support_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(reading.__file__).parents[1]))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "given.bin").write_bytes(b"content")
    return tmp_path / "given.bin"


SECRETS = (
    *("AWS_SECRET_ACCESS_KEY", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "HPE_SIGNING_KEY", "MLFLOW_TRACKING_PASSWORD"),
    *("NETRC", "POSTGRES_PASSWORD", "GITHUB_TOKEN", "HF_TOKEN", "https_proxy", "MY_OWN_SECRET"),
)


@pytest.mark.parametrize(
    ("read", "arguments"),
    [
        pytest.param(reading.well, {}, id="well"),
        pytest.param(reading.refuses, {}, id="refused as it would be here"),
        pytest.param(reading.takes, {"size_bytes": 20 * MEGABYTE}, id="some memory"),
        pytest.param(reading.looks_around, {"parent": os.getpid()}, id="empty folder, no credentials"),
    ],
)
def test_a_file_that_stays_within_its_limits_passes(
    read: Callable[..., object], arguments: dict[str, Any], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, reading.SECRET)
    try_reading(read, file, arguments, limits=LIMITS, kind=CheckpointError)


LARGE = {"size_bytes": 60 * MEGABYTE}


@pytest.mark.parametrize(
    ("read", "arguments", "limits", "message"),
    [
        pytest.param(reading.takes, LARGE, LIMITS, "took more than 50 MB of memory", id="memory"),
        pytest.param(reading.takes_and_refuses, LARGE, LIMITS, "took more than 50 MB of memory", id="memory, refused"),
        pytest.param(reading.computes, {}, SHORT, "took more than 1 s of processor time", id="processor"),
        pytest.param(reading.waits, {}, IMPATIENT, "took more than 2 s on the clock", id="clock"),
        pytest.param(reading.crashes, {}, LIMITS, "ended its process with SIGABRT", id="crash"),
        pytest.param(reading.leaves, {}, LIMITS, "not foreseen: status 0", id="says nothing"),
        pytest.param(reading.errs, {}, LIMITS, "not foreseen: KeyError: 'kkk", id="unforeseen"),
    ],
)
def test_a_file_that_takes_more_is_refused(
    read: Callable[..., object], arguments: dict[str, Any], limits: Limits, message: str, file: Path
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        try_reading(read, file, arguments, limits=limits, kind=CheckpointError)
    assert "given.bin" in caught.value.message
    assert len(caught.value.message) < 1000
    assert "HPE_READER_MEMORY_MB" in caught.value.hint


def test_the_process_ends_with_the_one_that_started_it(file: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from support import reading\n"
        "from hpe_tasks.errors import HpeError; from hpe_tasks.untrusted.limits import Limits\n"
        "from hpe_tasks.untrusted.reader import try_reading\n"
        "try_reading(reading.waits, Path(sys.argv[1]), {}, limits=Limits(10**8, 60, 600), kind=HpeError)\n"
    )
    paths = [str(Path(reading.__file__).parents[1]), str(Path(__file__).parents[3])]
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(file)], env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    )
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    try:
        child = _wait_for(lambda: next(iter(children.read_text().split()), None))
        _wait_for(file.with_suffix(".waiting").exists)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert _wait_for(lambda: not Path(f"/proc/{child}").exists() or _state(child) == "Z")


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):  # its end came in between
        return "Z"


def _wait_for(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


def test_limits_grow_with_the_file_unless_they_are_set(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits.of(file, base_bytes=2**30, growth=8) == Limits(2**30 + 8 * 7, 600, 1800)
    for name, value in (("MEMORY_MB", "300"), ("CPU_S", "5"), ("WALL_S", "9")):
        monkeypatch.setenv(f"HPE_READER_{name}", value)
    assert Limits.of(file, base_bytes=2**30, growth=8) == Limits(300 * MEGABYTE, 5, 9)


@pytest.mark.parametrize("value", ["0", "-3", "much", "1.5", "9" * 30])
@pytest.mark.parametrize("name", ["HPE_READER_MEMORY_MB", "HPE_READER_CPU_S", "HPE_READER_WALL_S"])
def test_a_limit_that_is_no_number_is_named(name: str, value: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name):
        Limits.of(file, base_bytes=2**30, growth=8)
