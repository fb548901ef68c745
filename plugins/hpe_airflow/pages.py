"""Pages that Airflow's API server shows: a run's report, the version that it published, and all models.

Each needs a login and the right to see the DAG's runs: an app of a plugin is open to everyone unless it asks.
"""

# No `from __future__ import annotations` here: FastAPI must see the annotations as they are.

import html
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, Path, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from pydantic import AfterValidator

from hpe_airflow.connections import s3_client
from hpe_airflow.lazy_app import Receive, Scope, Send
from hpe_airflow.model_pages import actions, routes
from hpe_airflow.model_pages.rendering import problem_page
from hpe_airflow.model_pages.trying import LARGEST_BYTES
from hpe_tasks.config.environment import Settings
from hpe_tasks.errors import (
    AccessError,
    BadInputError,
    ChannelConflictError,
    ConfigError,
    HpeError,
    MissingInputError,
)
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import FIRST_PIPELINE, Run, find_run, is_run_name
from hpe_tasks.pipeline.step import Step
from hpe_tasks.records.base import Record
from hpe_tasks.records.release import PublishedModel
from hpe_tasks.storage.s3 import S3Location, s3_errors

R = TypeVar("R", bound=Record)

# Nothing is loaded, run or framed; a report, which brings its own styles and pictures, has a policy of its own.
_GUARDS = {
    b"x-content-type-options": b"nosniff",
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'",
}


_LARGEST_FORM, _LARGEST_PICTURE = 100_000, LARGEST_BYTES + 100_000
"""Bytes of a request; larger ones are refused before they are read."""


_TOO_LARGE = Response("The form is too large, or does not say how large it is.", 413, media_type="text/plain")


def run_name(name: str) -> str:
    """A name that `open_run` makes, so that it stays below `runs/`; raises ValueError for another one."""
    if not is_run_name(name):
        raise ValueError("it is not the name of a run's folder")
    return name


RunName = Annotated[str, Path(), AfterValidator(run_name)]


class Pages(FastAPI):
    """An application all of whose answers tell browsers to take them for what they are, errors as well."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message.get("headers", ())}
                added = [header for header in _GUARDS.items() if header[0] not in given]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD") and not _short(scope):
            await _TOO_LARGE(scope, receive, guarded)
            return
        await super().__call__(scope, receive, guarded)


def build_app() -> FastAPI:
    """The application that Airflow mounts."""
    app = Pages(
        title="hpe",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.add_exception_handler(HpeError, explain)
    app.include_router(actions.router)
    app.include_router(routes.router)

    # Plain functions: FastAPI runs them in threads, so reading files and S3 does not hold up the API server.
    @app.get("/runs/{name}/report", dependencies=[Depends(_allowed)])
    def report(name: RunName) -> FileResponse:
        """The run's HTML report."""
        run = _run(name)
        return report_page(run.workspace.local(_record(run, steps.report).html))

    @app.get("/runs/{name}/data-docs", dependencies=[Depends(_allowed)])
    def data_docs(name: RunName) -> FileResponse:
        """What the expectations found in the run's data set."""
        run = _run(name)
        return report_page(run.workspace.local(_record(run, steps.validate_dataset).data_docs))

    @app.get("/runs/{name}/version", dependencies=[Depends(_allowed)])
    def version(name: RunName) -> Response:
        """The manifest of the version that the run published."""
        return Response(_manifest(_record(_run(name), steps.publish)), media_type="application/json")

    return app


def _allowed(name: RunName, request: Request, user: GetUserDep) -> None:
    """Refuse those who may not see the runs of the DAG that a page's run belongs to."""
    try:
        pipeline = _run(name).pipeline
    except HpeError:
        # What is not there, or cannot be read, is told to those only who might have seen it.
        pipeline = FIRST_PIPELINE
    requires_access_dag("GET", DagAccessEntity.RUN, pipeline)(request, user)


def _run(name: str) -> Run:
    settings = Settings.from_environment()
    return find_run(name, workspace=settings.workspace, cache=settings.cache, s3=s3_client)


def _record(run: Run, step: Step[R]) -> R:
    """What a step left, even where its inputs have changed since: the page shows what was."""
    if run.pointer(step.name) is None:
        hint = f"It appears when the task `{step.name}` has finished; the report says why it has not."
        raise MissingInputError(f"The run {run.name} has no result of the step {step.name}.", hint=hint)
    record = run.recorded(step)
    if record is None:
        raise MissingInputError(
            f"The result of the step {step.name} in {run.name} was made by another version of the project.",
            hint="Run the step again.",
        )
    return record


def report_page(file: FilePath) -> FileResponse:
    """A page that a run has left, under a policy of its own."""
    # The report brings its own styles and pictures and talks to no server.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; sandbox allow-popups"
    return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": policy})


def _manifest(published: PublishedModel) -> bytes:
    where = S3Location.parse(published.manifest.uri)
    with s3_errors(where, "reading"):
        return s3_client().get_object(Bucket=where.bucket, Key=where.key)["Body"].read()


def _short(scope: Scope) -> bool:
    """Whether a request says how long its body is, and that is no longer than it may be."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    most = _LARGEST_PICTURE if scope["path"].endswith("/try") else _LARGEST_FORM
    return length.isdigit() and int(length[:12]) <= most


def explain(request: Request, error: Exception) -> HTMLResponse:
    """The page that tells an error."""
    missing = isinstance(error, (MissingInputError, AccessError))
    if isinstance(error, HpeError) and not request.scope["path"].startswith(
        f"{request.scope.get('root_path', '')}/runs/"
    ):
        refused = type(error) in (BadInputError, ConfigError)
        status = 404 if missing else 409 if isinstance(error, ChannelConflictError) else 400 if refused else 502
        return problem_page(request, error, status)
    return HTMLResponse(f"<!doctype html><title>hpe</title><p>{html.escape(str(error))}</p>", 404 if missing else 502)
