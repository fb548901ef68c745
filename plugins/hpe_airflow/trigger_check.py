"""Refuses a run whose settings are wrong when it is triggered, before Airflow makes a run of it.

Airflow checks each parameter against its own schema, and answers with that schema. Whether they make a valid RunConfig
together, and whether a key is known at all, only RunConfig can say; and it says in one sentence what a setting takes.
Refused as well is what names a bucket, an object, a path or a file on a web server that is not there.

Only a trigger by somebody who may trigger is judged: to all others, what is there and what is not is none of their
business, and the answer is Airflow's own.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from hpe_airflow.lazy_app import Asgi, Receive, Scope, Send

if TYPE_CHECKING:
    from hpe_tasks.config.run import RunConfig

_LARGEST_BODY = 1_000_000

_PATIENCE_S = 10.0
"""How long a person who triggers waits for a server to say that something is not there."""

WATCH = "hpe_watch"
"""A DAG with the pipeline's form that is no pipeline itself."""

MayTrigger = Callable[[Scope, str], Awaitable[bool]]

log = logging.getLogger(__name__)


async def may_trigger(scope: Scope, dag_id: str) -> bool:
    """Whether whoever sends a request may trigger this DAG, as Airflow itself decides it."""
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.core_api.security import bearer_scheme, get_user, requires_access_dag
    from fastapi import HTTPException, Request

    request = Request(scope)
    try:
        user = await get_user(request, None, await bearer_scheme(request))
        # In a thread: it asks the database.
        await asyncio.to_thread(requires_access_dag("POST", DagAccessEntity.RUN, dag_id), request, user)
    except HTTPException:
        return False
    return True


class TriggerCheck:
    """ASGI middleware that answers 400 to a trigger of a pipeline's DAG with an invalid configuration.

    Args:
        app: The application that gets every other request, and this one when it is valid or its sender may not trigger.
        may: Who may trigger a DAG.
    """

    def __init__(self, app: Asgi, may: MayTrigger = may_trigger) -> None:
        self._app, self._may = app, may

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look at triggers, pass everything else on untouched."""
        dag_id = _triggered(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if dag_id is None or not await self._may(scope, dag_id):
            await self._app(scope, receive, send)
            return
        messages = await _read(receive)
        problem = await _problem(b"".join(message.get("body", b"") for message in messages))
        if problem is None:
            await self._app(scope, _replay(messages, receive), send)
        else:
            await _refuse(send, problem)


def _triggered(path: str) -> str | None:
    """Which of the DAGs with the pipeline's form a path triggers."""
    from hpe_tasks.pipeline.listing import listed_pipelines

    # A path before /api is what Airflow's base_url adds.
    for dag_id in (*(pipeline.name for pipeline in listed_pipelines()), WATCH):
        if path.rstrip("/").endswith(f"/api/v2/dags/{dag_id}/dagRuns"):
            return dag_id
    return None


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


async def _problem(body: bytes) -> str | None:
    """What is wrong with the configuration in a trigger's body; None where only Airflow can judge."""
    from hpe_airflow.params_form import config_from_params
    from hpe_tasks.errors import ConfigError

    try:
        conf = json.loads(body).get("conf") or {}
        given = dict(conf)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None  # not a trigger as Airflow knows it: its own answer is the better one
    try:
        config = config_from_params(given)
    except ConfigError as error:
        return str(error)
    try:
        # In a thread: it asks servers, and the API server answers others meanwhile.
        missing = await asyncio.wait_for(asyncio.to_thread(_missing, config, frozenset(given)), _PATIENCE_S)
    except TimeoutError:
        log.warning("Nothing said within %g s whether the places of a trigger exist: its preflight will.", _PATIENCE_S)
        return None
    return " ".join(missing) or None


def _missing(config: RunConfig, given: frozenset[str]) -> tuple[str, ...]:
    from hpe_airflow.connections import s3_client, use_web_connections
    from hpe_tasks.preflight.named_places import missing_places

    use_web_connections()
    return missing_places(config, given, s3=s3_client, files_are_here=tasks_run_here)


def tasks_run_here() -> bool:
    """Whether this process sees the files that tasks will see: they run on this machine, beside their scheduler.

    Under other executors than LocalExecutor, and where a scheduler runs on another host or in another container, a
    path is of a machine that cannot be asked.
    """
    from airflow.configuration import conf
    from airflow.jobs.job import Job, JobState
    from airflow.utils.net import get_hostname
    from airflow.utils.session import create_session
    from sqlalchemy import select

    if str(conf.get("core", "executor")) != "LocalExecutor":
        return False
    running = select(Job).where(Job.job_type == "SchedulerJob", Job.state == JobState.RUNNING)
    with create_session() as session:
        hosts = {job.hostname for job in session.scalars(running) if job.is_alive()}
    return hosts == {get_hostname()}  # type: ignore[no-untyped-call]


async def _refuse(send: Send, problem: str) -> None:
    body = json.dumps({"detail": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": body})
