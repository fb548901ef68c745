"""An ASGI application that is built when its first request arrives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]


class LazyApp:
    """Stands in for an application in processes that load plugins and never serve a page.

    Args:
        builder: The function that makes the application, as `package.module:function`.
    """

    def __init__(self, builder: str) -> None:
        self._builder = builder
        self._app: Asgi | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application."""
        if self._app is None:
            module, _, function = self._builder.partition(":")
            self._app = getattr(import_module(module), function)()
        await self._app(scope, receive, send)
