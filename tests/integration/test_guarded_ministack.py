"""What the embedded S3 server refuses: its own administration, and whatever a web page may send."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpe_tasks.errors import AccessError
from hpe_tasks.local.object_store import DEFAULT_BUCKET, ObjectStore, Server
from hpe_tasks.storage.s3 import S3Location, s3_errors

pytestmark = pytest.mark.integration

KEY = "registry/model.onnx"


@pytest.fixture(scope="module")
def store(object_store_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A server of its own: if a guard fails, only this one is erased."""
    store = ObjectStore(tmp_path_factory.mktemp("guarded"), object_store_python)
    with store as server:
        server.client().put_object(Bucket=DEFAULT_BUCKET, Key=KEY, Body=b"weights")
        yield store


@pytest.fixture
def server(store: ObjectStore) -> Iterator[Server]:
    """The server; whatever a test asked of it, what it holds is still there."""
    server = store.start()
    yield server
    assert server.client().get_object(Bucket=DEFAULT_BUCKET, Key=KEY)["Body"].read() == b"weights"


def status_of(server: Server, request: str, *headers: str, hosts: tuple[str, ...] | None = None) -> int:
    """The status of the answer to a request of this first line, sent byte by byte as it stands."""
    hosts = (f"127.0.0.1:{server.port}",) if hosts is None else hosts
    lines = [request, *(f"Host: {host}" for host in hosts), *headers, "Connection: close", "", ""]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return int(answer.split(maxsplit=2)[1])


@pytest.mark.parametrize(
    "request_line",
    [
        "POST /_ministack/reset HTTP/1.1",
        "POST /_ministack/reset?init=1 HTTP/1.1",
        "POST /%5Fministack/reset HTTP/1.1",
        "POST /_ministack%2Freset HTTP/1.1",
        "POST /_ministack/config HTTP/1.1",
        "POST /_ministack/health HTTP/1.1",
        "GET /_ministack/ready HTTP/1.1",
        "GET /_ministack/iot/ca.pem HTTP/1.1",
        "PUT /_ministack/cfn-response/token HTTP/1.1",
        "GET /_ministack/rds/iam-auth HTTP/1.1",
        "GET /_localstack/health HTTP/1.1",
        "GET /_aws/execute-api/a/b HTTP/1.1",
        "POST //_ministack/reset HTTP/1.1",
        "POST /./_ministack/reset HTTP/1.1",
        "POST http://127.0.0.1/_ministack/reset HTTP/1.1",
    ],
)
@pytest.mark.parametrize("origin", [(), ("Origin: https://page.example",)], ids=["local", "from-a-page"])
def test_its_administration_is_refused(server: Server, request_line: str, origin: tuple[str, ...]) -> None:
    assert status_of(server, request_line, "Content-Type: text/plain", "Content-Length: 0", *origin) == 403


@pytest.mark.parametrize("origin", ["https://page.example", "http://127.0.0.1:1", "http://localhost", "null", ""])
@pytest.mark.parametrize(
    "request_line",
    [
        "GET /_ministack/health HTTP/1.1",
        f"OPTIONS /{DEFAULT_BUCKET}/{KEY} HTTP/1.1",
        f"POST /{DEFAULT_BUCKET}?delete HTTP/1.1",
        f"GET /{DEFAULT_BUCKET}/{KEY} HTTP/1.1",
    ],
)
def test_a_page_is_refused_everything(server: Server, request_line: str, origin: str) -> None:
    assert status_of(server, request_line, f"Origin: {origin}", "Content-Length: 0") == 403


def test_a_page_that_knows_the_key_is_refused_as_well(server: Server) -> None:
    """The access key is no secret: a page can sign, too."""
    address = server.client().generate_presigned_url("get_object", Params={"Bucket": DEFAULT_BUCKET, "Key": KEY})
    target = address.removeprefix(server.endpoint)
    assert status_of(server, f"GET {target} HTTP/1.1") == 200
    assert status_of(server, f"GET {target} HTTP/1.1", "Origin: https://page.example") == 403


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (("127.0.0.1:{port}",), 200),
        (("localhost:{port}",), 200),
        (("LOCALHOST",), 200),
        (("page.example",), 403),
        (("page.example:{port}",), 403),
        (("127.0.0.1.page.example:{port}",), 403),
        (("localhost.page.example",), 403),
        (("abc.execute-api.localhost:{port}",), 403),
        (("page.example@127.0.0.1",), 403),
        (("[::1]:{port}",), 403),
        ((" ",), 403),
    ],
    ids=lambda value: value[0].replace("{port}", "port") if isinstance(value, tuple) else "",
)
def test_it_answers_to_its_own_names_only(server: Server, hosts: tuple[str, ...], status: int) -> None:
    """A page whose name was rebound to this machine sends its own name."""
    named = tuple(host.format(port=server.port) for host in hosts)
    assert status_of(server, "GET /_ministack/health HTTP/1.1", hosts=named) == status


@pytest.mark.parametrize(
    "hosts", [(), ("127.0.0.1", "page.example"), ("page.example", "127.0.0.1")], ids=["none", "own-first", "own-last"]
)
def test_a_request_names_one_host(server: Server, hosts: tuple[str, ...]) -> None:
    """HTTP/1.0 knows no Host; the server's HTTP library refuses some of these before we do."""
    assert status_of(server, "GET /_ministack/health HTTP/1.0", hosts=hosts) in {400, 403}
    assert status_of(server, "GET /_ministack/health HTTP/1.1", hosts=hosts) in {400, 403}


@pytest.mark.parametrize("path", ["/", "/_ministack/reset", "/_aws/execute-api/a/b"])
def test_sockets_of_pages_are_refused(server: Server, path: str) -> None:
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    asked = (*upgrade, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Origin: https://page.example")
    assert status_of(server, f"GET {path} HTTP/1.1", *asked) == 403


def test_clients_are_told_that_access_is_denied(server: Server) -> None:
    client = server.client()
    client.meta.events.register("before-send.s3", lambda request, **_: request.headers.update(Origin="null"))
    with pytest.raises(AccessError, match="Access was denied"), s3_errors(S3Location(DEFAULT_BUCKET, KEY), "reading"):
        client.get_object(Bucket=DEFAULT_BUCKET, Key=KEY)


def test_an_open_server_of_before_is_replaced(object_store_python: Path, tmp_path: Path) -> None:
    """It may have been started by an earlier version of this project, and runs until somebody stops it."""
    store = ObjectStore(tmp_path, object_store_python)
    with store as server:
        server.client().put_object(Bucket=DEFAULT_BUCKET, Key=KEY, Body=b"weights")
    command = (str(object_store_python), "-I", "-m", "ministack")
    with (tmp_path / "old.log").open("wb") as log:
        old = subprocess.Popen(
            command, cwd=tmp_path, env=store._server_environment(server.port), stdout=log, stderr=log
        )
    try:
        fields = Path(f"/proc/{old.pid}/stat").read_text().rpartition(")")[2].split()
        recorded = server.model_copy(update={"pid": old.pid, "process_started": int(fields[19]), "command": command})
        (tmp_path / "server.json").write_text(recorded.model_dump_json())
        while store.status() is None:
            assert old.poll() is None, (tmp_path / "old.log").read_text()
            time.sleep(0.05)
        with store as again:
            assert again.pid != old.pid
            assert again.port == server.port
            assert status_of(again, "POST /_ministack/reset HTTP/1.1", "Content-Length: 0") == 403
            assert again.client().get_object(Bucket=DEFAULT_BUCKET, Key=KEY)["Body"].read() == b"weights"
            assert old.wait(20) is not None
    finally:
        old.kill()
        old.wait()
