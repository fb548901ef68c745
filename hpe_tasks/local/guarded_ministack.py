"""ministack behind a guard: for S3 clients of this machine only, and without its administration.

A script for the interpreter of ministack's own environment, which has none of the libraries of this project.

ministack's administration asks for no key: one POST to `/_ministack/reset` erases everything, and a browser sends such
a POST for any page that is open in it. Nor does the access key help against pages, as it stands in our source code: a
page can sign a form. So whatever a browser says that a page sent is refused (`Origin`), and so is whatever was meant
for another host: a page's own name can be made to point to this machine while it is open (DNS rebinding), and then
nothing else tells its requests from ours.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HEALTH = "/_ministack/health"
ENDS_WITH = "HPE_ENDS_WITH"
"""Environment variable: the process that has started the server, and with which it ends."""
STAYS_IN = "HPE_STAYS_IN"
"""Environment variable: a file in which its process id stands, in JSON, once the server is to outlive that process."""
OWN_HOSTS = frozenset({"127.0.0.1", "localhost"})
ANSWERS_AS = "HPE_ANSWERS_AS"
"""Environment variable: a further host that clients know the server by, as a container's name in its network."""
_END_PATIENCE_S = 10.0
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


def guarded(application: Application, hosts: frozenset[str] = OWN_HOSTS) -> Application:
    """An ASGI application that passes on what `refusal` finds nothing wrong with."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        elif scope["type"] == "http" and (reason := refusal(scope, hosts)):
            await _deny(send, reason)
        else:
            await application(scope, receive, send)

    return guard


def refusal(scope: Scope, hosts: frozenset[str] = OWN_HOSTS) -> str:
    """Why a request is refused; empty for one that is not."""
    named = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"]
    if len(named) != 1 or named[0].partition(":")[0].strip().lower() not in hosts:
        return f"This server answers as {' or '.join(sorted(hosts))}."
    if any(name.lower() == b"origin" for name, _ in scope["headers"]):
        return "This server does not answer web pages."
    path = scope["path"]
    if path == HEALTH and scope["method"] in {"GET", "HEAD"}:
        return ""
    # No bucket's name begins with these; what ministack serves beside the services of AWS lies below the first.
    if not path.startswith("/") or path.startswith(("/_", "//", "/.")):
        return "Of the server's administration only its health is open."
    return ""


async def _deny(send: Send, reason: str) -> None:
    """Answer as S3 does, so that its clients show the reason."""
    body = f"<Error><Code>AccessDenied</Code><Message>{reason}</Message></Error>".encode()
    headers = [
        (b"content-type", b"application/xml"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        # What it came with is not read.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def end_with_starter() -> None:
    """Have this process end when the one that has started it does, unless the server is to stay."""
    starter, stays_in = os.environ.pop(ENDS_WITH, ""), os.environ.pop(STAYS_IN, "")
    if not starter:
        return
    # What is imported there needs nothing but Python.
    sys.path.insert(0, str(Path(__file__).parents[2]))
    try:
        from hpe_tasks.local.processes import wait_for_end
    finally:
        del sys.path[0]

    def watch() -> None:
        wait_for_end(int(starter))
        if stays_in and _process_in(Path(stays_in)) == os.getpid():
            return
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_END_PATIENCE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _process_in(file: Path) -> object:
    return json.loads(file.read_bytes())["pid"] if file.is_file() else None


def main() -> None:
    """Run ministack as `python -m ministack` does, behind the guard."""
    end_with_starter()
    from ministack import app as ministack

    further = os.environ.pop(ANSWERS_AS, "").lower()
    ministack.app = guarded(ministack.app, OWN_HOSTS | ({further} if further else set()))
    ministack.main()


if __name__ == "__main__":
    main()
