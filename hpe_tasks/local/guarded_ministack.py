"""ministack behind a guard: for S3 clients of this machine only, and without its administration.

A script for the interpreter of ministack's own environment, in which nothing of this project can be imported.

ministack's administration asks for no key: one POST to `/_ministack/reset` erases everything, and a browser sends such
a POST for any page that is open in it. Nor does the access key help against pages, as it stands in our source code: a
page can sign a form. So whatever a browser says that a page sent is refused (`Origin`), and so is whatever was meant
for another host: a page's own name can be made to point to this machine while it is open (DNS rebinding), and then
nothing else tells its requests from ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

HEALTH = "/_ministack/health"
OWN_HOSTS = frozenset({"127.0.0.1", "localhost"})
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


def guarded(application: Application) -> Application:
    """An ASGI application that passes on what `refusal` finds nothing wrong with."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        elif scope["type"] == "http" and (reason := refusal(scope)):
            await _deny(send, reason)
        else:
            await application(scope, receive, send)

    return guard


def refusal(scope: Scope) -> str:
    """Why a request is refused; empty for one that is not."""
    named = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"]
    if len(named) != 1 or named[0].partition(":")[0].strip().lower() not in OWN_HOSTS:
        return "This server answers as 127.0.0.1 or localhost."
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


def main() -> None:
    """Run ministack as `python -m ministack` does, behind the guard."""
    from ministack import app as ministack

    ministack.app = guarded(ministack.app)
    ministack.main()


if __name__ == "__main__":
    main()
