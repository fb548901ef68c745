"""The local server: requests become a function URL's events, and results become responses."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from hpe_tasks.cli.app import app
from hpe_tasks.errors import AccessError, BadInputError, ConfigError, DigestError, HpeError, TransientError
from hpe_tasks.local_service.events import MAX_PAYLOAD_BYTES, PageRequest, function_url_event, response_of
from hpe_tasks.local_service.server import LocalServer

JPEG = bytes(range(256)) * 4


class Recorder:
    """A function that keeps its events and answers with what it is told."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.request_ids: list[str] = []
        self.result: dict[str, Any] = {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": "{}"}
        self.running = 0
        self.most_at_once = 0

    def __call__(self, event: Any, context: Any) -> dict[str, Any]:
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        time.sleep(0.01)
        self.events.append(dict(event))
        self.request_ids.append(context.aws_request_id)
        self.running -= 1
        assert 0 < context.get_remaining_time_in_millis() <= 30_000
        return self.result


@pytest.fixture
def function() -> Recorder:
    return Recorder()


@pytest.fixture
def server(function: Recorder) -> Iterator[LocalServer]:
    with LocalServer(function) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: LocalServer, method: str, target: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, target, body, headers or {})
    answer = connection.getresponse()
    answer.content = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def test_a_picture_arrives_as_a_function_url_would_pass_it_on(server: LocalServer, function: Recorder) -> None:
    answer = ask(
        server, "POST", "/pose?draw=false&boxes=%5B%5B1%2C2%2C3%2C4%5D%5D", JPEG, {"Content-Type": "image/jpeg"}
    )
    assert answer.status == 200
    (event,) = function.events
    assert event["version"] == "2.0"
    assert event["rawPath"] == "/pose"
    assert event["rawQueryString"] == "draw=false&boxes=%5B%5B1%2C2%2C3%2C4%5D%5D"
    assert event["queryStringParameters"] == {"draw": "false", "boxes": "[[1,2,3,4]]"}
    assert event["headers"]["content-type"] == "image/jpeg"
    assert event["requestContext"]["http"]["method"] == "POST"
    assert event["requestContext"]["http"]["sourceIp"] == "127.0.0.1"
    assert event["requestContext"]["requestId"] == function.request_ids[0]
    assert event["isBase64Encoded"] is True
    assert base64.b64decode(event["body"]) == JPEG
    json.dumps(event)


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("application/json", b'{"image": "abc"}', True),
        ("Application/JSON; charset=utf-8", b"{}", True),
        ("text/plain", "ä".encode(), True),
        ("text/plain", b"\xff\xfe", False),
        ("image/png", b"{}", False),
        ("multipart/form-data; boundary=x", b"--x--", False),
        ("", b"abc", False),
    ],
)
def test_text_is_passed_on_as_text_and_all_else_as_base64(content_type: str, body: bytes, text: bool) -> None:
    event = function_url_event(PageRequest("POST", "/pose", [("Content-Type", content_type)], body, "::1"), "id")
    assert event["isBase64Encoded"] is not text
    assert (event["body"].encode() if text else base64.b64decode(event["body"])) == body


def test_repeated_headers_and_parameters_are_joined_and_absent_ones_left_out() -> None:
    headers = [("Accept", "image/jpeg"), ("accept", "application/json")]
    event = function_url_event(PageRequest("GET", "/pose?a=1&a=2&b=", headers, b"", "::1"), "id")
    assert event["headers"] == {"accept": "image/jpeg,application/json"}
    assert event["queryStringParameters"] == {"a": "1,2", "b": ""}
    assert "body" not in event
    assert "queryStringParameters" not in function_url_event(PageRequest("GET", "/pose", [], b"", "::1"), "id")


def test_results_become_responses() -> None:
    picture = {
        "statusCode": 200,
        "headers": {"Content-Type": "image/jpeg"},
        "body": base64.b64encode(JPEG).decode(),
        "isBase64Encoded": True,
    }
    assert response_of(picture).body == JPEG
    assert response_of(picture).headers == {"Content-Type": "image/jpeg"}
    text = response_of({"statusCode": 415, "body": "größer"})
    assert (text.status, text.body) == (415, "größer".encode())


def test_status_headers_and_body_reach_the_caller(server: LocalServer, function: Recorder) -> None:
    function.result = {"statusCode": 422, "headers": {"X-Test": "yes"}, "body": '{"error": {}}'}
    answer = ask(server, "POST", "/pose", b"{}", {"Content-Type": "application/json"})
    assert (answer.status, answer.headers["X-Test"], answer.content) == (422, "yes", b'{"error": {}}')


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "POST"])
def test_the_function_answers_every_method(server: LocalServer, function: Recorder, method: str) -> None:
    ask(server, method, "/pose")
    assert function.events[0]["requestContext"]["http"]["method"] == method


def test_the_function_works_on_one_request_at_a_time(server: LocalServer, function: Recorder) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(server, "POST", "/pose", JPEG).status, range(16)))
    assert answers == [200] * 16
    assert function.most_at_once == 1
    assert len(set(function.request_ids)) == 16


@pytest.mark.parametrize("size", [MAX_PAYLOAD_BYTES + 1, MAX_PAYLOAD_BYTES * 3 // 4 + 3, 30_000_000])
def test_what_lambda_would_not_pass_on_is_too_large(server: LocalServer, function: Recorder, size: int) -> None:
    answer = ask(server, "POST", "/pose", bytes(size), {"Content-Type": "image/jpeg"})
    assert answer.status == 413
    assert json.loads(answer.content)["error"]["code"] == 413
    assert function.events == []


def test_a_body_of_unknown_length_is_refused(server: LocalServer, function: Recorder) -> None:
    answer = ask(server, "POST", "/pose", iter([b"abc"]), {"Transfer-Encoding": "chunked"})
    assert answer.status == 411
    assert ask(server, "POST", "/pose", None, {"Content-Length": "-1"}).status == 411
    assert function.events == []


@pytest.mark.parametrize(("method", "target"), [("GET", "/favicon.ico"), ("POST", "/"), ("GET", "/../page.html")])
def test_nothing_else_is_there(server: LocalServer, function: Recorder, method: str, target: str) -> None:
    answer = ask(server, method, target)
    assert answer.status == 404
    assert json.loads(answer.content)["error"]["code"] == 404
    assert function.events == []


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        pytest.param("GET", "/favicon.ico", {}, 404, id="not there"),
        pytest.param("POST", "/", {}, 404, id="not the function"),
        pytest.param("GET", "/", {"Host": "pictures.example"}, 421, id="another host"),
        pytest.param("POST", "/pose", {"Content-Length": "-1"}, 411, id="no length"),
        pytest.param("DELETE", "/<script>", {}, 501, id="a method that nothing has"),
        pytest.param("GET", f"/{'x' * 70_000}", {}, 414, id="a long address"),
        pytest.param("GET", "/", {"X-Long": "x" * 70_000}, 431, id="a long header"),
    ],
)
def test_browsers_are_told_to_take_errors_for_what_they_are(
    server: LocalServer, method: str, target: str, headers: dict[str, str], status: int
) -> None:
    answer = ask(server, method, target, None, headers)
    assert answer.status == status
    assert json.loads(answer.content)["error"]["code"] == status
    assert answer.headers.get_all("X-Content-Type-Options") == ["nosniff"]
    assert answer.headers.get_all("Content-Security-Policy") == ["default-src 'none'"]
    assert answer.headers["Content-Type"] == "application/json"


def test_an_error_of_head_has_no_body(server: LocalServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 501 ")
    assert answer.endswith(b"\r\n\r\n")


def test_the_page_needs_nothing_from_elsewhere(server: LocalServer) -> None:
    seen: dict[str, str] = {}
    asked = ["/"]
    while asked:
        address = asked.pop()
        answer = ask(server, "GET", address)
        assert answer.status == 200, address
        seen[address] = text = answer.content.decode()
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        found = re.findall(r'(?:href|src)="([^"]+)"', text) + re.findall(r'^import .* from "\./([^"]+)";', text, re.M)
        asked += [f"/{name}" for name in found if not name.startswith("data:") and f"/{name}" not in seen]
    assert set(seen) == set(server.page)
    addresses = set(re.findall(r"\bhttps?://[^\s\"'`]+", "".join(seen.values())))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address
    # What the policy would refuse.
    assert not re.search(r"<style|\sstyle=|<script(?![^>]+src=)|\son\w+=", seen["/"])
    assert "@import" not in seen["/page.css"]


@pytest.mark.parametrize(
    ("address", "kind"), [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")]
)
def test_the_pages_files_have_their_types(server: LocalServer, address: str, kind: str) -> None:
    assert ask(server, "GET", address).headers["Content-Type"] == f"{kind}; charset=utf-8"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8090", 200),
        ("127.1.2.3:8090", 200),
        ("localhost:8090", 200),
        ("LOCALHOST.", 200),
        ("[::1]:8090", 200),
        ("[::1]", 200),
        ("pictures.example", 421),
        ("pictures.example:8090", 421),
        ("localhost.pictures.example", 421),
        ("127.0.0.1@pictures.example", 421),
        ("127.0.0.1.pictures.example:80", 421),
        ("192.0.2.1:8090", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_a_page_of_another_site_cannot_make_a_browser_ask(
    server: LocalServer, function: Recorder, host: str, status: int
) -> None:
    for method, target in (("GET", "/"), ("GET", "/pose"), ("POST", "/pose"), ("GET", "/model")):
        answer = ask(server, method, target, JPEG if method == "POST" else None, {"Host": host})
        assert (answer.status == 421) == (status == 421), (method, target)
    assert len(function.events) == (2 if status == 200 else 0)


def test_where_it_listens_to_other_machines_it_answers_under_any_name(function: Recorder) -> None:
    with LocalServer(function, host="0.0.0.0") as server:
        assert server.answers_to("pictures.example")


class Saying:
    """What a server says of a version: what it is told to, be it an error."""

    def __init__(self, said: Any) -> None:
        self.said = said
        self.asked: list[Any] = []

    def _say(self, *asked: Any) -> Any:
        self.asked.append(asked)
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    describe = golden = compare = _say


@contextmanager
def saying(function: Recorder, said: Any) -> Iterator[tuple[LocalServer, Saying]]:
    versions = Saying(said)
    with LocalServer(function, versions=versions) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server, versions
        server.shutdown()
        thread.join()


GOLDEN = f"/golden/{'0' * 16}/golden-1"


def test_the_page_asks_what_is_said_of_the_version(function: Recorder) -> None:
    with saying(function, {"name": "pose"}) as (server, versions):
        assert json.loads(ask(server, "GET", "/model").content) == {"name": "pose"}
        answer = ask(server, "POST", GOLDEN, b"[]", {"Content-Type": "application/json"})
        assert json.loads(answer.content) == {"name": "pose"}
        assert versions.asked == [(), ("0" * 16, "golden-1", b"[]")]
    assert function.events == []


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8\xff rest", "image/jpeg"),
        (b"\x89PNG rest", "image/png"),
        (b"RIFF1234WEBP", "image/webp"),
        (b"GIF89a", "image/gif"),
        (b"<script>", "application/octet-stream"),
    ],
)
def test_a_golden_image_is_for_this_page_alone(function: Recorder, data: bytes, kind: str) -> None:
    with saying(function, data) as (server, versions):
        answer = ask(server, "GET", GOLDEN)
    assert (answer.content, answer.headers["Content-Type"]) == (data, kind)
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert versions.asked == [("0" * 16, "golden-1")]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (AccessError("There is none.", hint="Look."), 404),
        (BadInputError("These are no people."), 422),
        (DigestError("It is damaged."), 502),
        (TransientError("It does not answer."), 502),
    ],
)
def test_why_nothing_can_be_said_reaches_the_page(function: Recorder, error: HpeError, status: int) -> None:
    with saying(function, error) as (server, _):
        for method, target in (("GET", "/model"), ("GET", GOLDEN), ("POST", GOLDEN)):
            answer = ask(server, method, target)
            assert answer.status == status
            assert json.loads(answer.content)["error"]["message"] == str(error)


@pytest.mark.parametrize(
    "target",
    ["/golden/0/golden-1", f"/golden/{'0' * 16}/../x", f"/golden/{'0' * 16}/", f"/golden/{'0' * 16}/A", "/models"],
)
def test_other_addresses_are_not_asked_for(function: Recorder, target: str) -> None:
    with saying(function, {}) as (server, versions):
        assert ask(server, "GET", target).status == 404
        assert ask(server, "POST", target).status == 404
        assert versions.asked == []


@pytest.mark.parametrize(("method", "target"), [("GET", "/model"), ("GET", GOLDEN), ("POST", GOLDEN)])
def test_a_server_that_knows_the_function_alone_says_no_more(server: LocalServer, method: str, target: str) -> None:
    assert ask(server, method, target).status == 404


def test_it_listens_on_loopback_and_says_where(server: LocalServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_a_port_in_use_is_an_error_that_says_what_to_do(server: LocalServer, function: Recorder) -> None:
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{server.server_port} is in use.*another port"):
        LocalServer(function, port=server.server_port)


def test_an_address_of_another_machine_is_an_error(function: Recorder) -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:0 cannot be listened at"):
        LocalServer(function, host="192.0.2.1")


def test_a_folder_without_a_model_is_an_error_that_names_it(tmp_path: Any) -> None:
    result = CliRunner().invoke(app, ["serve", "--package", str(tmp_path)])
    assert result.exit_code != 0
    assert str(tmp_path / "model" / "manifest.json") in str(result.exception)
