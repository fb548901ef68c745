"""A server on loopback that answers S3 clients with the errors that a test asks for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def answering(**answers: tuple[int, str]) -> Iterator[str]:
    """Address of a server that answers each method, as `PUT=(403, "AccessDenied")`, with a status and a code of S3."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def _answer(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            status, code = answers[self.command]
            body = f"<Error><Code>{code}</Code><Message>As asked.</Message></Error>".encode() if status >= 300 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/xml")
            if status < 300:
                self.send_header("ETag", '"5d41402abc4b2a76b9719d911017c592"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = _answer

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
