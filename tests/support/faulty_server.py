"""A web server on loopback that can cut, stall, refuse and lie; S3 clients may take it for theirs."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mood:
    """How one request is answered.

    Attributes:
        status: Answer with this status and no file.
        cut_after: Close the connection after so many bytes of the body.
        stall_after: Say nothing more after so many bytes of the body.
        headers: Headers to add or, as None, to leave out.
    """

    status: int = 0
    cut_after: int | None = None
    stall_after: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)


class Site:
    """One file under every path, or `files` by their paths, and the requests that were made.

    Attributes:
        moods: How the next requests are answered, whatever they ask for.
        moods_of: How the next requests of a path are answered.
        delay_s: How long every answer takes.
        times: When each request came, on the monotonic clock.
        most_at_once: The most requests that were being answered at one time.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.files: dict[str, bytes] | None = None
        self.moods_of: defaultdict[str, deque[Mood]] = defaultdict(deque)
        self.delay_s = 0.0
        self.times: list[float] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.etag: str | None = '"v1"'
        self.modified: str | None = "Wed, 21 Oct 2015 07:28:00 GMT"
        self.ranges = True
        self.conditions = True
        self.moods: deque[Mood] = deque()
        self.requests: list[tuple[str, str, Message]] = []
        self.released = threading.Event()
        self.address = ""

    @contextmanager
    def answering(self, command: str, path: str, headers: Message) -> Iterator[None]:
        """Take note of a request while it is answered."""
        with self._lock:
            self.requests.append((command, path, headers))
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self.delay_s)
        yield
        with self._lock:
            self._at_once -= 1

    def paths(self) -> list[str]:
        """The path of each request."""
        return [path for _, path, _ in self.requests]

    def headers_sent(self, name: str) -> list[str | None]:
        """The value of a request header in each request."""
        return [headers[name] for _, _, headers in self.requests]


@contextmanager
def serve(content: bytes) -> Iterator[Site]:
    site = Site(content)

    class Handler(_Handler):
        def __init__(self, *args: object) -> None:
            self.site = site
            super().__init__(*args)  # type: ignore[arg-type]

    with _Server(("127.0.0.1", 0), Handler) as server:
        site.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield site
        finally:
            site.released.set()
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        with self.site.answering(self.command, self.path, self.headers):
            self._answer_in_mood(with_body=with_body)

    def _answer_in_mood(self, *, with_body: bool) -> None:
        site = self.site
        moods = site.moods_of[self.path] or site.moods
        mood = moods.popleft() if moods and with_body else Mood()
        content = site.content if site.files is None else site.files.get(self.path)
        if content is None and not mood.status:
            mood = Mood(status=404)
        if mood.status:
            self._send(mood.status, b"", {"Content-Length": "0", **mood.headers}, with_body=with_body)
            return
        assert content is not None
        headers: dict[str, str | None] = {"ETag": site.etag, "Last-Modified": site.modified}
        if site.conditions and site.etag and self.headers["If-None-Match"] == site.etag:
            self._send(304, b"", headers, with_body=False)
            return
        total = len(content)
        start, end, status = 0, total - 1, 200
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        unchanged = self.headers["If-Range"] in {None, site.etag, site.modified}
        if wanted and site.ranges and unchanged:
            start, status = int(wanted[1]), 206
            end = min(end, int(wanted[2])) if wanted[2] else end
            if start >= total:
                self._send(416, b"", {"Content-Range": f"bytes */{total}", "Content-Length": "0"}, with_body=False)
                return
            headers["Content-Range"] = f"bytes {start}-{end}/{total}"
        body = content[start : end + 1]
        headers |= {"Content-Length": str(len(body))} | mood.headers
        if mood.cut_after is not None or mood.stall_after is not None or headers["Content-Length"] is None:
            self.close_connection = True
            headers["Connection"] = "close"
        self._send(status, body, headers, with_body=with_body, mood=mood)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str | None], *, with_body: bool, mood: Mood | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        mood = mood or Mood()
        if mood.stall_after is not None:
            self.wfile.write(body[: mood.stall_after])
            self.wfile.flush()
            self.site.released.wait(10)
        else:
            self.wfile.write(body if mood.cut_after is None else body[: mood.cut_after])
