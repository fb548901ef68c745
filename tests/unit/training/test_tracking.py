"""A tracking server that is not there, or that refuses, loses no training. Those that are: tests/integration."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.training.activation_ranges import ActivationRanges
from hpe_tasks.training.observers import observers_for
from hpe_tasks.training.tracking import TrackedRuns
from support.observed_training import observed_training


@pytest.fixture(autouse=True)
def quiet_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_DISABLE_TELEMETRY"):
        # Set and taken away: what the code sets is taken back at the end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def refusing() -> Iterator[Callable[[int, str], str]]:
    """Starts a server that gives one answer to everything."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, code: str) -> str:
        class Refusing(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"error_code": code, "message": "Not for you."}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Refusing))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return f"http://user:pass-word@127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_server_that_is_not_there_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # Nobody listens.
        address = f"http://user:pass-word@127.0.0.1:{bound.getsockname()[1]}/tracking?token=secret-one"
        tracked = TrackedRuns(address, tmp_path, retry_s=0.05, patience_s=1.0)
        network = observed_training([tracked])
        began = time.monotonic()
        observed_training([tracked], network=network)
    assert time.monotonic() - began < 30
    first, lost, lost_again = warnings_of(caplog)
    assert first.startswith(f"The tracking server http://127.0.0.1:{bound_port(address)}/tracking does not take")
    assert "The training goes on without it" in first
    assert lost == lost_again
    assert "Not all of this training was told" in lost
    for secret in ("pass-word", "secret-one", "user:"):
        assert secret not in caplog.text


def bound_port(address: str) -> str:
    return address.rpartition("@")[2].partition("/")[0].rpartition(":")[2]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        pytest.param(401, "UNAUTHENTICATED", id="no account"),
        pytest.param(403, "PERMISSION_DENIED", id="no right"),
        pytest.param(503, "TEMPORARILY_UNAVAILABLE", id="overloaded"),
    ],
)
def test_a_server_that_refuses_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, refusing: Callable[[int, str], str], status: int, code: str
) -> None:
    observed_training([TrackedRuns(refusing(status, code), tmp_path, retry_s=0.05, patience_s=0.5)])
    first, lost = warnings_of(caplog)
    assert "Not for you" in first or str(status) in first
    assert "Not all of this training was told" in lost
    assert "pass-word" not in caplog.text


def test_an_address_that_is_none_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    observed_training([TrackedRuns("gopher://somewhere", tmp_path, patience_s=0.5)])
    first, lost = warnings_of(caplog)
    assert "gopher://somewhere does not take what it is told" in first
    assert "Not all" in lost


def test_curves_are_kept_where_the_server_is_not(tmp_path: Path) -> None:
    [ranges] = observers_for(tmp_path, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert isinstance(ranges, ActivationRanges)
    *_, tracked = ranges._told
    assert isinstance(tracked, TrackedRuns)
    tracked._retry_s, tracked._patience_s = 0.05, 0.5
    observed_training([ranges], epochs=1)
    assert "4 of 4 steps, done" in (tmp_path / "curves.html").read_text()
