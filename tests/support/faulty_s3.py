"""A proxy before a real S3 server that refuses, cuts, slows down and holds back what a test names."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
_HELD_AT_MOST_S = 600.0
_SIGNED_AT_MOST_S = 900
"""S3 refuses requests that were signed longer ago, or so far ahead."""


@dataclass
class Fault:
    """What happens to requests.

    Attributes:
        what: Expression that is searched for in `METHOD /path?query`.
        does: "refuse" answers 503 SlowDown; "cut" breaks the connection in the middle of the answer; "lose" breaks it
            after the server has answered, with no answer; "slow" waits; "hold" waits for `release`.
        times: How many requests it happens to.
        after: How many that are alike go through before it happens.
        wait_s: For "slow".
        then: Whether a request that was held goes on to the server.
        repeats: Whether it happens to the same request again, sent by a client that has lost its patience, until the
            release.
        seen: Set when the first of them came.
        met: How many it has happened to.
        passed: How many have gone through before.
    """

    what: str
    does: Literal["refuse", "cut", "lose", "slow", "hold"]
    times: int = 1
    after: int = 0
    wait_s: float = 0.0
    then: bool = False
    repeats: bool = False
    seen: threading.Event = field(default_factory=threading.Event)
    met: int = 0
    passed: int = 0
    _last: str = ""
    _released: threading.Event = field(default_factory=threading.Event)

    def release(self, *, onwards: bool) -> None:
        """Let a request that is held go on to the server, or lose it."""
        self.then = onwards
        self._released.set()

    def comes_again(self, request: str) -> bool:
        """Whether this is the request that it has happened to."""
        return self.repeats and request == self._last and not self._released.is_set()

    def hold(self) -> bool:
        """Wait for the release; whether the request goes on."""
        return self._released.wait(_HELD_AT_MOST_S) and self.then


class FaultyS3:
    """The proxy.

    Attributes:
        address: Where clients find it.
        requests: `METHOD /path` of every request, in the order in which they came.
        clocks_s: By how many seconds the clocks of those who signed requests were ahead of this machine's.
    """

    def __init__(self, address: str, server: str) -> None:
        self.address = address
        self.host = urlsplit(server).netloc
        self.requests: list[str] = []
        self.clocks_s: set[int] = set()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    @contextmanager
    def fault(self, what: str, does: Any, **more: Any) -> Iterator[Fault]:
        """Have a fault happen until the end of the block; what is held then is lost."""
        fault = Fault(what, does, **more)
        with self._lock:
            self._faults.append(fault)
        try:
            yield fault
        finally:
            with self._lock:
                self._faults.remove(fault)
            fault._released.set()

    def met(self, request: str) -> Fault | None:
        """Take note of a request; what happens to it."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.comes_again(request):
                    return fault
                if fault.met == fault.times or not re.search(fault.what, request):
                    continue
                if fault.passed == fault.after:
                    fault.met += 1
                    fault._last = request
                    fault.seen.set()
                    return fault
                fault.passed += 1
        return None


@contextmanager
def faulty_s3(server: str) -> Iterator[FaultyS3]:
    """A proxy before the server at this address."""

    class Handler(_Handler):
        pass

    with _Server(("127.0.0.1", 0), Handler) as listening:
        proxy = Handler.proxy = FaultyS3(f"http://127.0.0.1:{listening.server_port}", server)
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            listening.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Clients are killed in the middle of what they say: that is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyS3

    def log_message(self, *_: object) -> None:
        return

    def _pass_on(self) -> None:
        # Read first, also where it is then refused: what is left would be taken for the next request.
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        fault = self.proxy.met(f"{self.command} {self.path}")
        does = "" if fault is None else fault.does
        if fault is not None and does == "slow":
            time.sleep(fault.wait_s)
        if self._signed_too_far_off():
            self._refuse(403, "RequestTimeTooSkewed")
            return
        if does == "refuse":
            self._refuse(503, "SlowDown")
            return
        if fault is not None and does == "hold" and not fault.hold():
            self.close_connection = True
            return
        # The signature covers the host that the client has asked: it stays as it came.
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _OF_THE_CONNECTION}
        onwards = http.client.HTTPConnection(self.proxy.host, timeout=120)
        try:
            onwards.request(self.command, self.path, body=body, headers=headers | {"Content-Length": str(len(body))})
            answer = onwards.getresponse()
            content = answer.read()
        finally:
            onwards.close()
        if does == "lose":
            self.close_connection = True
            return
        self._answer(answer, content, cut=does == "cut")

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, *, cut: bool) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _OF_THE_CONNECTION - {"content-length"}:
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def _signed_too_far_off(self) -> bool:
        """Whether S3 would refuse the time at which a request was signed; the embedded server does not look at it."""
        if (said := self.headers["X-Amz-Date"]) is None:
            return False
        signed = datetime.strptime(said, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        ahead_s = round((signed - datetime.now(UTC)).total_seconds())
        self.proxy.clocks_s.add(ahead_s)
        return abs(ahead_s) > _SIGNED_AT_MOST_S

    def _refuse(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>The proxy of a test says so.</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on
