"""The HTTP server: the page at `/`, the function at `/pose`."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

from hpe_tasks.errors import ConfigError
from hpe_tasks.local_service.events import (
    MAX_PAYLOAD_BYTES,
    Context,
    Request,
    Response,
    function_url_event,
    response_of,
)

Function = Callable[[Mapping[str, Any], Any], Mapping[str, Any]]

# The page brings everything along; the browser is told to load nothing else.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Browsers show a broken connection, and not the answer, where it comes before they have sent everything: bodies that
# are too large are read to the end, up to here.
_DRAINED_BYTES = 256 * 1024 * 1024
_CHUNK_BYTES = 1 << 20


class LocalServer(ThreadingHTTPServer):
    """A function at http://HOST:PORT/pose, with the page at `/`.

    Args:
        function: Called with an event and a context, one request at a time, as one Lambda environment is.
        port: 0 takes any free one.

    Raises:
        ConfigError: The address cannot be listened at.
    """

    daemon_threads = True

    def __init__(self, function: Function, host: str = "127.0.0.1", port: int = 0) -> None:
        self._function = function
        self._one_at_a_time = threading.Lock()
        self.page = files("hpe_tasks.local_service").joinpath("page.html").read_bytes()
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            problem = "is in use" if taken else f"cannot be listened at: {error}"
            raise ConfigError(f"{host}:{port} {problem}.", hint="Give another port, or 0 for any free one.") from error

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{self.server_address[0]!s}:{self.server_port}/"

    def invoke(self, request: Request) -> Response:
        """Let the function answer a request."""
        context = Context()
        event = function_url_event(request, context.aws_request_id)
        if len(event.get("body", "")) > MAX_PAYLOAD_BYTES:
            return too_large(context.aws_request_id)
        with self._one_at_a_time:
            return response_of(self._function(event, context))


def too_large(request_id: str = "") -> Response:
    """The answer to what Lambda would not pass on to the function."""
    return _error(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "The request is larger than the 6 MB that Lambda accepts; base64 makes a picture a third larger.",
        request_id,
    )


def _error(status: HTTPStatus, message: str, request_id: str = "") -> Response:
    body = {"error": {"code": int(status), "message": message, "request_id": request_id}}
    return Response(status, {"Content-Type": "application/json"}, json.dumps(body).encode())


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/pose":
            self._pose()
        elif path == "/":
            headers = {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Security-Policy": _PAGE_POLICY,
                "Cache-Control": "no-store",
            }
            self._send(Response(HTTPStatus.OK, headers, self.server.page))
        else:
            self._send(_error(HTTPStatus.NOT_FOUND, f"There is nothing at {path}: the page is /, the function /pose."))

    def do_OPTIONS(self) -> None:
        self._pose()

    def do_POST(self) -> None:
        self._pose()

    def _pose(self) -> None:
        if self.path.partition("?")[0] != "/pose":
            self.close_connection = True  # its body was not read
            self._send(_error(HTTPStatus.NOT_FOUND, "The function answers at /pose."))
            return
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True
            self._send(_error(HTTPStatus.LENGTH_REQUIRED, "The request must say its length in Content-Length."))
            return
        if int(length) > MAX_PAYLOAD_BYTES:
            self._drain(int(length))
            self._send(too_large())
            return
        body = self.rfile.read(int(length))
        request = Request(self.command, self.path, self.headers.items(), body, self.client_address[0])
        self._send(self.server.invoke(request))

    def _drain(self, length: int) -> None:
        self.close_connection = True
        left = min(length, _DRAINED_BYTES)
        while left > 0 and (chunk := self.rfile.read(min(left, _CHUNK_BYTES))):
            left -= len(chunk)

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(response.body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: the function logs each request itself."""
