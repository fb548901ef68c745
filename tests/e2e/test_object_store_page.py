"""Web pages against the embedded S3 server, in a real browser: they can neither erase, nor write, nor read."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from hpe_tasks.local.object_store import DEFAULT_BUCKET, ObjectStore, Server
from support.chromium import chromium_browser

pytestmark = pytest.mark.e2e

KEY = "registry/model.onnx"
REBOUND = "rebound.example"
"""A name that its owner lets point to this machine once the page is open."""


@pytest.fixture(scope="module")
def running(object_store_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ObjectStore(tmp_path_factory.mktemp("store"), object_store_python) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The server; whatever a page did, what it holds is still there, and nothing else."""
    client = running.client()
    client.put_object(Bucket=DEFAULT_BUCKET, Key=KEY, Body=b"weights")
    yield running
    stored = client.list_objects_v2(Bucket=DEFAULT_BUCKET)["Contents"]
    assert [entry["Key"] for entry in stored] == [KEY]
    assert client.get_object(Bucket=DEFAULT_BUCKET, Key=KEY)["Body"].read() == b"weights"


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    """A page of another origin, in a browser with the guards that it has by default."""

    class Foreign(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>A page</title><p>Welcome.</p>")

        def log_message(self, *_: object) -> None:
            pass

    rebinding = f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Foreign) as foreign,
        chromium_browser(chromium, rebinding) as browser,
    ):
        threading.Thread(target=foreign.serve_forever, daemon=True).start()
        try:
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{foreign.server_port}/")
            yield page
        finally:
            foreign.shutdown()


FETCH = """async ([url, options]) => {
    const answer = await fetch(url, options);
    return answer.type === "opaque" ? "opaque" : `${answer.status}`;
}"""

SUBMIT = """([url, fields, encoding]) => {
    const form = document.body.appendChild(document.createElement("form"));
    Object.assign(form, {method: "POST", action: url, enctype: encoding});
    for (const [name, value] of Object.entries(fields)) {
        form.appendChild(Object.assign(document.createElement("textarea"), {name, value}));
    }
    form.submit();
}"""


def sent(page: Page, server: Server, script: str, *arguments: object) -> int:
    """Let the page do it; returns the status of the server's answer, which the page itself may not see."""
    with page.expect_response(lambda answer: answer.url.startswith(server.endpoint)) as answered:
        page.evaluate(script, list(arguments))
    return answered.value.status


def test_a_page_cannot_erase_what_is_stored(server: Server, page: Page) -> None:
    options = {"method": "POST", "mode": "no-cors", "headers": {"Content-Type": "text/plain"}, "body": "x"}
    assert sent(page, server, FETCH, f"{server.endpoint}/_ministack/reset", options) == 403


def test_a_form_cannot_erase_what_is_stored(server: Server, page: Page) -> None:
    assert sent(page, server, SUBMIT, f"{server.endpoint}/_ministack/reset", {}, "text/plain") == 403


def test_a_form_that_is_signed_cannot_write(server: Server, page: Page) -> None:
    """The access key stands in the source code: a page can sign what it sends."""
    post = server.client().generate_presigned_post(DEFAULT_BUCKET, KEY)
    fields = {**post["fields"], "file": "other weights"}
    assert sent(page, server, SUBMIT, post["url"], fields, "multipart/form-data") == 403


def test_a_page_whose_name_was_rebound_is_refused(server: Server, page: Page) -> None:
    """To the browser it is the server's own page then: nothing but the name tells them apart."""
    opened = page.goto(f"http://{REBOUND}:{server.port}/_ministack/health")
    assert opened is not None
    assert opened.status == 403
    client = server.client()
    signed = client.generate_presigned_url("get_object", Params={"Bucket": DEFAULT_BUCKET, "Key": KEY})
    asked = [
        ("/_ministack/health", {}),
        ("/_ministack/reset", {"method": "POST"}),
        (f"/{DEFAULT_BUCKET}/{KEY}", {}),
        (signed.removeprefix(server.endpoint), {}),
    ]
    assert [page.evaluate(FETCH, [url, options]) for url, options in asked] == ["403"] * len(asked), json.dumps(asked)
