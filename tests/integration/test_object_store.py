from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from hpe_tasks.errors import ConfigError, StorageError
from hpe_tasks.local.object_store import ObjectStore, Server, main
from hpe_tasks.local.processes import children
from support.left_behind import gone

pytestmark = pytest.mark.integration

T = TypeVar("T")


@pytest.fixture
def store(object_store_python: Path, tmp_path: Path) -> Iterator[ObjectStore]:
    store = ObjectStore(tmp_path / "store", object_store_python)
    yield store
    store.stop()


def listening_addresses(port: int) -> set[str]:
    """Local addresses of the sockets that listen on the port, from the kernel's tables."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, number = fields[1].rpartition(":")
            if fields[3] == "0A" and int(number, 16) == port:
                found.add(address)
    return found


def test_it_listens_on_loopback_only(s3_server: Server) -> None:
    assert listening_addresses(s3_server.port) == {"0100007F"}


def test_starting_is_idempotent_and_stopping_ends_the_process(store: ObjectStore) -> None:
    assert store.status() is None
    server = store.start()
    assert store.start() == server
    assert ObjectStore(store.data_dir, store.python).start() == server
    assert store.status() == server
    assert store.stop()
    assert gone(server.pid)
    assert store.status() is None
    assert not store.stop()


STARTER = """
import sys, time
from contextlib import nullcontext
from pathlib import Path
from hpe_tasks.local import object_store

store = object_store.ObjectStore(Path(sys.argv[1]), Path(sys.argv[2]))
if sys.argv[3] == "starts":
    object_store._answers = lambda port: False  # It is being started, and nobody knows of it yet.
    print("starts", flush=True)
    store.start()
with store if sys.argv[3] == "uses" else nullcontext(store.start()):
    print("up", flush=True)
    time.sleep(100)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("state", ["starts", "uses"])
def test_a_server_that_nobody_knows_of_ends_with_its_starter(
    store: ObjectStore, state: str, number: signal.Signals
) -> None:
    with started_by_another(store, state) as starter:
        server = wait_for(lambda: next(children(starter.pid), None))
        starter.send_signal(number)
        starter.wait()
        assert wait_for(lambda: gone(server))


def test_a_server_that_was_started_to_stay_does(store: ObjectStore) -> None:
    with started_by_another(store, "starts to stay") as starter:
        starter.kill()
    server = store.status()
    assert server is not None
    time.sleep(0.7)  # It looks twice a second.
    assert store.status() == server
    assert store.stop()
    assert gone(server.pid)


@contextmanager
def started_by_another(store: ObjectStore, state: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", STARTER, str(store.data_dir), str(store.python), state]
    starter = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline()
        yield starter


def wait_for(found: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + 30
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def test_many_starters_start_one_server(store: ObjectStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        servers = set(pool.map(lambda _: ObjectStore(store.data_dir, store.python).start().pid, range(4)))
    assert len(servers) == 1


def test_nothing_is_written_outside_its_folder(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setenv("HOME", str(elsewhere))
    monkeypatch.chdir(elsewhere)
    client = store.start().client()
    client.put_object(Bucket="hpe-models", Key="a/b", Body=b"x")
    store.stop()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_data_versions_and_port_survive_the_end_of_the_process(store: ObjectStore, sign: signal.Signals) -> None:
    server = store.start()
    client = server.client()
    client.put_object(Bucket="hpe-models", Key="a/model.onnx", Body=b"first")
    client.put_object(Bucket="hpe-models", Key="a/model.onnx", Body=b"second" * 10_000)
    os.kill(server.pid, sign)
    while not gone(server.pid):
        time.sleep(0.02)
    again = store.start()
    assert (again.port, again.pid != server.pid) == (server.port, True)
    assert client.get_object(Bucket="hpe-models", Key="a/model.onnx")["Body"].read() == b"second" * 10_000
    assert client.get_bucket_versioning(Bucket="hpe-models")["Status"] == "Enabled"
    assert len(client.list_object_versions(Bucket="hpe-models")["Versions"]) == 2


def test_a_server_that_hangs_is_replaced(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpe_tasks.local.object_store._STOP_TIMEOUT_S", 1.0)
    server = store.start()
    os.kill(server.pid, signal.SIGSTOP)
    again = store.start()
    assert again.pid != server.pid
    assert gone(server.pid)
    again.client().list_buckets()


def test_a_stranger_with_the_recorded_pid_is_left_alone(store: ObjectStore) -> None:
    server = store.start()
    store.stop()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        reused = server.model_copy(update={"pid": stranger.pid})
        (store.data_dir / "server.json").write_text(reused.model_dump_json())
        assert store.status() is None
        assert not store.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_port_in_use_is_named(s3_server: Server, object_store_python: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"Port {s3_server.port} on 127.0.0.1 is not free"):
        ObjectStore(tmp_path / "s", object_store_python, port=s3_server.port).start()


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not installed: .*nowhere/python does not exist"):
        ObjectStore(tmp_path / "s", tmp_path / "nowhere" / "python").start()


def test_an_environment_without_ministack_shows_the_log(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"ended with status 1.*No module named 'ministack'"):
        ObjectStore(tmp_path / "s", Path(sys.executable)).start()
    assert not (tmp_path / "s" / "server.json").exists()


def test_a_broken_address_file_is_named(object_store_python: Path, tmp_path: Path) -> None:
    (tmp_path / "server.json").write_text("{}")
    with pytest.raises(StorageError, match=r"server\.json is not the address of a server"):
        ObjectStore(tmp_path, object_store_python).start()


def test_the_shell_command(object_store_python: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data-dir", str(tmp_path / "s"), "--python", str(object_store_python), "--bucket", "my-models"]
    assert main(["status", *options]) == 1
    try:
        assert main(["start", *options]) == 0
        endpoint = capsys.readouterr().out.strip()
        assert main(["status", *options]) == 0
        assert capsys.readouterr().out.strip() == endpoint
        assert main(["start", *options, "--env"]) == 0
        exports = capsys.readouterr().out
        # What the exports say must be enough for a client that knows nothing else.
        script = f"{exports}\n'{sys.executable}' -c '{LIST_BUCKETS}'"
        environment = {"PATH": os.environ["PATH"], "AWS_PROFILE": "nobody", "AWS_SESSION_TOKEN": "stale"}
        found = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
        assert json.loads(found.stdout) == ["my-models"]
    finally:
        assert main(["stop", *options]) == 0
    assert main(["stop", *options]) == 0
    assert "was not running" in capsys.readouterr().err


LIST_BUCKETS = (
    "import json; from hpe_tasks.storage.s3 import make_client; "
    'print(json.dumps([b["Name"] for b in make_client().list_buckets()["Buckets"]]))'
)


def test_the_shell_command_explains_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "--data-dir", str(tmp_path), "--python", "/nowhere/python"]) == 2
    assert "ConfigError: The embedded S3 server is not installed" in capsys.readouterr().err
