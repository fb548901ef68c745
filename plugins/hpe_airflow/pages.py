"""Pages that Airflow's API server shows: a run's report and the version that it published.

Both need a login and the right to see the DAG's runs: an app of a plugin is open to everyone unless it asks.
"""

# No `from __future__ import annotations` here: FastAPI must see the annotations as they are.

import html
from pathlib import Path as FilePath
from typing import Annotated, TypeVar

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, Path, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from hpe_airflow.connections import s3_client
from hpe_tasks.config.environment import Settings
from hpe_tasks.errors import AccessError, HpeError, MissingInputError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import FIRST_PIPELINE, Run, find_run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.records.base import Record
from hpe_tasks.records.release import PublishedModel
from hpe_tasks.storage.s3 import S3Location, s3_errors

RUN_NAME = r"^[\w+][\w.+-]*$"
"""What `open_run` makes of a run's name: no separators, no leading dot, so it stays below `runs/`."""

R = TypeVar("R", bound=Record)

RunName = Annotated[str, Path(pattern=RUN_NAME, max_length=300)]


def build_app() -> FastAPI:
    """The application that Airflow mounts."""
    app = FastAPI(
        title="hpe",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(_allowed)],
    )
    app.add_exception_handler(HpeError, _explain)

    # Plain functions: FastAPI runs them in threads, so reading files and S3 does not hold up the API server.
    @app.get("/runs/{name}/report")
    def report(name: RunName) -> FileResponse:
        """The run's HTML report."""
        run = _run(name)
        return _page(run.workspace.local(_record(run, steps.report).html))

    @app.get("/runs/{name}/version")
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


def _page(file: FilePath) -> FileResponse:
    # The report brings its own styles and pictures and talks to no server.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; sandbox allow-popups"
    return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": policy})


def _manifest(published: PublishedModel) -> bytes:
    where = S3Location.parse(published.manifest.uri)
    with s3_errors(where, "reading"):
        return s3_client().get_object(Bucket=where.bucket, Key=where.key)["Body"].read()


def _explain(_: Request, error: Exception) -> HTMLResponse:
    missing = isinstance(error, (MissingInputError, AccessError))
    return HTMLResponse(f"<!doctype html><title>hpe</title><p>{html.escape(str(error))}</p>", 404 if missing else 502)
