"""The HTTP server: the page at `/`, the function at `/pose`, and what the page says of the version that answers.

| address | what is there |
|---|---|
| GET `/`, `/page.css`, `/*.js` | the page |
| GET, POST, OPTIONS `/pose` | the function |
| GET `/model` | the version that answers, as `Versions.describe` has it |
| GET `/golden/VERSION/ROLE` | the file of a golden image |
| POST `/golden/VERSION/ROLE` | the `people` of an answer, compared with those of the image |
"""

from __future__ import annotations

import errno
import ipaddress
import json
import re
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from hpe_tasks.contract.names import SLUG, VERSION
from hpe_tasks.errors import AccessError, BadInputError, ConfigError, DigestError, HpeError
from hpe_tasks.local_service.events import (
    MAX_PAYLOAD_BYTES,
    Context,
    PageRequest,
    Response,
    function_url_event,
    response_of,
)
from hpe_tasks.local_service.versions import Versions

Function = Callable[[Mapping[str, Any], Any], Mapping[str, Any]]

# The page brings everything along; the browser is told to load nothing else.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Of what is not the function's: for this page alone, and not to be kept.
_OURS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# Of errors, which other pages may be told of where they may use the function.
_NO_PAGE = {"Content-Security-Policy": "default-src 'none'", "X-Content-Type-Options": "nosniff"}
_GOLDEN = re.compile(f"/golden/({VERSION})/({SLUG})")
# Browsers show a broken connection, and not the answer, where it comes before they have sent everything: bodies that
# are too large are read to the end, up to here.
_DRAINED_BYTES = 256 * 1024 * 1024
_CHUNK_BYTES = 1 << 20


# The page's files, by their address.
_PAGE_FILES = {"/": "index.html"} | {
    f"/{name}": name for name in ("page.css", "page.js", "advice.js", "dom.js", "overlay.js", "version.js")
}
_PAGE_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}

_IMAGE_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp", b"GIF8": "image/gif"}


class LocalServer(ThreadingHTTPServer):
    """A function at http://HOST:PORT/pose, with the page at `/`.

    Bound to a loopback address it answers under this machine's own names only: otherwise a page of another site, whose
    name is made to lead here, could read pictures through a browser.

    Args:
        function: Called with an event and a context, one request at a time, as one Lambda environment is.
        port: 0 takes any free one.
        versions: What the page says of the version that answers; without it, no more than the function says itself.

    Raises:
        ConfigError: The address cannot be listened at.
    """

    daemon_threads = True

    def __init__(
        self, function: Function, host: str = "127.0.0.1", port: int = 0, *, versions: Versions | None = None
    ) -> None:
        self._function = function
        self._one_at_a_time = threading.Lock()
        self.versions = versions
        folder = files("hpe_tasks.local_service").joinpath("page")
        self.page = {address: folder.joinpath(name).read_bytes() for address, name in _PAGE_FILES.items()}
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            problem = "is in use" if taken else f"cannot be listened at: {error}"
            raise ConfigError(f"{host}:{port} {problem}.", hint="Give another port, or 0 for any free one.") from error
        self._local_only = _is_loopback(str(self.server_address[0]))

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{self.server_address[0]!s}:{self.server_port}/"

    def answers_to(self, host: str | None) -> bool:
        """Whether a request with this Host header is meant for this server; programs may leave the header out."""
        return not self._local_only or host is None or _is_loopback(_host_name(host))

    def invoke(self, request: PageRequest) -> Response:
        """Let the function answer a request."""
        context = Context()
        event = function_url_event(request, context.aws_request_id)
        if len(event.get("body", "")) > MAX_PAYLOAD_BYTES:
            return too_large(context.aws_request_id)
        with self._one_at_a_time:
            return response_of(self._function(event, context))


def _host_name(host: str) -> str:
    """The name or address in a Host header; empty where it holds none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def too_large(request_id: str = "") -> Response:
    """The answer to what Lambda would not pass on to the function."""
    return _error(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "The request is larger than the 6 MB that Lambda accepts; base64 makes a picture a third larger.",
        request_id,
    )


def _error(status: HTTPStatus, message: str, request_id: str = "") -> Response:
    body = {"error": {"code": int(status), "message": message, "request_id": request_id}}
    return Response(status, {"Content-Type": "application/json", **_NO_PAGE}, json.dumps(body).encode())


def _status_of(error: HpeError) -> HTTPStatus:
    if isinstance(error, AccessError):
        return HTTPStatus.NOT_FOUND
    if isinstance(error, BadInputError) and not isinstance(error, DigestError):
        return HTTPStatus.UNPROCESSABLE_ENTITY
    return HTTPStatus.BAD_GATEWAY


def _json(document: Mapping[str, Any]) -> Response:
    body = json.dumps(document, allow_nan=False).encode()
    return Response(HTTPStatus.OK, {"Content-Type": "application/json", **_OURS}, body)


def _image(data: bytes) -> Response:
    kind = next((kind for start, kind in _IMAGE_TYPES.items() if data.startswith(start)), "application/octet-stream")
    return Response(HTTPStatus.OK, {"Content-Type": kind, **_OURS}, data)


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/pose":
            self._pose()
        elif not self._meant_for_us():
            return
        elif path in self.server.page:
            kind = _PAGE_TYPES[_PAGE_FILES[path].rpartition(".")[2]]
            headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Security-Policy": _PAGE_POLICY}
            self._send(Response(HTTPStatus.OK, {**headers, **_OURS}, self.server.page[path]))
        elif (versions := self.server.versions) is None:
            self._not_found(path)
        elif path == "/model":
            self._say(lambda: _json(versions.describe()))
        elif (image := _GOLDEN.fullmatch(path)) is not None:
            self._say(lambda: _image(versions.golden(image[1], image[2])))
        else:
            self._not_found(path)

    def do_OPTIONS(self) -> None:
        self._pose()

    def do_POST(self) -> None:
        image = _GOLDEN.fullmatch(self.path)
        if image is None or (versions := self.server.versions) is None:
            self._pose()
        elif self._meant_for_us() and (people := self._body()) is not None:
            self._say(lambda: _json(versions.compare(image[1], image[2], people)))

    def _pose(self) -> None:
        if not self._meant_for_us():
            return
        if self.path.partition("?")[0] != "/pose":
            self.close_connection = True  # its body was not read
            self._send(_error(HTTPStatus.NOT_FOUND, "The function answers at /pose."))
            return
        if (body := self._body()) is None:
            return
        request = PageRequest(self.command, self.path, self.headers.items(), body, self.client_address[0])
        self._send(self.server.invoke(request))

    def _meant_for_us(self) -> bool:
        """Whether the request may be answered; if not, it has been refused."""
        host = self.headers.get("Host")
        if self.server.answers_to(host):
            return True
        self.close_connection = True  # its body was not read
        problem = f"This server answers as 127.0.0.1 or localhost, not as {host!r}."
        self._send(_error(HTTPStatus.MISDIRECTED_REQUEST, problem))
        return False

    def _body(self) -> bytes | None:
        """The request's body; None where it has been refused."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True
            self._send(_error(HTTPStatus.LENGTH_REQUIRED, "The request must say its length in Content-Length."))
            return None
        if int(length) > MAX_PAYLOAD_BYTES:
            self._drain(int(length))
            self._send(too_large())
            return None
        return self.rfile.read(int(length))

    def _say(self, answer: Callable[[], Response]) -> None:
        """Send what is said of the version, or why nothing can be."""
        try:
            response = answer()
        except HpeError as error:
            response = _error(_status_of(error), str(error))
        self._send(response)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Refuse what is no HTTP, or a method that nothing here has, as everything else is refused."""
        self.close_connection = True
        status = HTTPStatus(code)
        refused = _error(status, message or status.phrase)
        self._send(Response(status, refused.headers, b"") if self.command == "HEAD" else refused)

    def _not_found(self, path: str) -> None:
        self._send(_error(HTTPStatus.NOT_FOUND, f"There is nothing at {path}: the page is /, the function /pose."))

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
