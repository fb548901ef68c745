"""A relay in front of an S3 server that notes what passes it, and may refuse for a while."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_OF_THE_CONNECTION = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}


@dataclass
class Relay:
    """What has passed.

    Attributes:
        endpoint: Its address.
        methods: Of each request, in their order.
        refuse: How many of the next requests are answered with 503 SlowDown, as by a server that throttles.
    """

    endpoint: str
    methods: list[str] = field(default_factory=list)
    refuse: int = 0


@contextmanager
def relayed(host: str, port: int) -> Iterator[Relay]:
    """A relay to the S3 server at this address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            relay.methods.append(self.command)
            if relay.refuse:
                relay.refuse -= 1
                refusal = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
                self._answer(503, {"Content-Type": "application/xml"}, refusal)
                return
            onward = http.client.HTTPConnection(host, port, timeout=30)
            try:
                onward.request(self.command, self.path, body, dict(self.headers.items()))
                answer = onward.getresponse()
                self._answer(answer.status, dict(answer.getheaders()), answer.read())
            finally:
                onward.close()

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _OF_THE_CONNECTION:
                    self.send_header(name, value)
            length = next((v for k, v in headers.items() if k.lower() == "content-length"), str(len(body)))
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        relay = Relay(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            server.shutdown()
            thread.join()
