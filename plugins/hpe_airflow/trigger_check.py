"""Refuses a run whose settings are wrong when it is triggered, before Airflow makes a run of it.

Airflow checks each parameter against its own schema, and answers with that schema. Whether they make a valid RunConfig
together, and whether a key is known at all, only RunConfig can say; and it says in one sentence what a setting takes.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

from hpe_airflow.lazy_app import Asgi, Receive, Scope, Send

_LARGEST_BODY = 1_000_000


class TriggerCheck:
    """ASGI middleware that answers 400 to a trigger of a pipeline's DAG with an invalid configuration.

    Args:
        app: The application that gets every other request, and this one when it is valid.
    """

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at triggers, pass everything else on untouched."""
        if scope["type"] != "http" or scope["method"] != "POST" or not _is_trigger(scope["path"]):
            await self._app(scope, receive, send)
            return
        messages = await _read(receive)
        problem = _problem(b"".join(message.get("body", b"") for message in messages))
        if problem is None:
            await self._app(scope, _replay(messages, receive), send)
        else:
            await _refuse(send, problem)


def _is_trigger(path: str) -> bool:
    from hpe_tasks.pipeline.listing import listed_pipelines

    # A path before /api is what Airflow's base_url adds.
    triggers = tuple(f"/api/v2/dags/{pipeline.name}/dagRuns" for pipeline in listed_pipelines())
    return path.rstrip("/").endswith(triggers)


async def _read(receive: Receive) -> list[MutableMapping[str, Any]]:
    """The request's messages, up to the end of its body or a size that no configuration has."""
    messages: list[MutableMapping[str, Any]] = []
    size = 0
    while True:
        message = await receive()
        messages.append(message)
        size += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body") or size > _LARGEST_BODY:
            return messages


def _replay(messages: list[MutableMapping[str, Any]], receive: Receive) -> Receive:
    """A `receive` that gives the messages again, then whatever comes after them."""
    waiting = iter(messages)

    async def again() -> MutableMapping[str, Any]:
        message = next(waiting, None)
        return await receive() if message is None else message

    return again


def _problem(body: bytes) -> str | None:
    """What is wrong with the configuration in a trigger's body; None where only Airflow can judge."""
    from hpe_airflow.params_form import config_from_params
    from hpe_tasks.errors import ConfigError

    try:
        conf = json.loads(body).get("conf") or {}
        given = dict(conf)
    except (ValueError, TypeError, AttributeError):
        return None  # not a trigger as Airflow knows it: its own answer is the better one
    try:
        config_from_params(given)
    except ConfigError as error:
        return str(error)
    return None


async def _refuse(send: Send, problem: str) -> None:
    body = json.dumps({"detail": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
