"""Connections of one service to others, which a test cuts and mends: a partition of the network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

_CHUNK = 65536


class Link:
    """What stands between a service and another one, at a port of its own.

    While it is cut nothing passes and nobody is told, as where a cable is pulled; once it is mended, what was open
    before is closed.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._open: set[socket.socket] = set()
        self._passing = threading.Event()
        self._passing.set()
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Let nothing pass from now on."""
        self._passing.clear()

    def mend(self) -> None:
        """Let new connections pass."""
        self._close_all()
        self._passing.set()

    def close(self) -> None:
        """Let nothing pass, and accept nobody any more."""
        self._listening.close()
        self._close_all()
        self._passing.set()

    def _close_all(self) -> None:
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):  # It is closed.
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        with self._lock:
            self._open.add(near)
        self._passing.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            near.close()
            return
        with self._lock:
            self._open.add(far)
        threading.Thread(target=self._relay, args=(near, far), daemon=True).start()
        self._relay(far, near)

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                self._passing.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def links(ports: Iterable[int]) -> Iterator[list[Link]]:
    """A link to each of these ports of this machine."""
    made = [Link(port) for port in ports]
    try:
        yield made
    finally:
        for link in made:
            link.close()
