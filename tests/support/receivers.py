"""Servers of this machine that keep what they are sent: a webhook's, OpenTelemetry's by HTTP, and one for mail."""

from __future__ import annotations

import email
import email.policy
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Post:
    """A request: its path, headers by lower-case names, and body."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """A server on a loopback port.

    Attributes:
        address: Of an HTTP server with `http://`; of a mail server host and port.
        posts: What an HTTP server was sent.
        mails: What a mail server was sent, with the addresses of the envelope.
    """

    address: str
    posts: list[Post] = field(default_factory=list)
    mails: list[tuple[list[str], EmailMessage]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@contextmanager
def http_receiver(status: int = 200, *, seconds_a_byte: float = 0.0) -> Iterator[Receiver]:
    """An HTTP server that answers each POST with a status; with `seconds_a_byte` it never comes to an end of it."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            receiver.posts.append(Post(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if seconds_a_byte:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not ended.wait(seconds_a_byte):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                return
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield receiver
        finally:
            ended.set()
            server.shutdown()


@contextmanager
def mail_receiver() -> Iterator[Receiver]:
    """A mail server (RFC 5321) without encryption or login."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._answer("220 mail.example")
            to: list[str] = []
            while line := self.rfile.readline().decode():
                verb = line[:4].upper()
                if verb == "RCPT":
                    to.append(line.partition("<")[2].partition(">")[0])
                if verb == "DATA":
                    self._answer("354 go on")
                    receiver.mails.append((to, _message(self._data())))
                if verb == "QUIT":
                    self._answer("221 bye")
                    return
                self._answer("250 ok")

        def _data(self) -> bytes:
            lines = []
            while (line := self.rfile.readline()) not in (b".\r\n", b""):
                lines.append(line.removeprefix(b"."))
            return b"".join(lines)

        def _answer(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver = Receiver(f"127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield receiver
        finally:
            server.shutdown()


def _message(data: bytes) -> EmailMessage:
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def wait_for(what: list[Any], count: int = 1, *, patience_s: float = 30.0) -> None:
    """Wait until so many things have been received."""
    until = time.monotonic() + patience_s
    while len(what) < count and time.monotonic() < until:
        time.sleep(0.02)
    assert len(what) >= count, f"{len(what)} of {count} were received in {patience_s} s"
