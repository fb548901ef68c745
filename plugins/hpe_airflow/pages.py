"""Pages that Airflow's API server shows: a run's report and the version that it published.

Both need a login and the right to see the DAG's runs: an app of a plugin is open to everyone unless it asks.
"""

# No `from __future__ import annotations` here: FastAPI must see the annotations as they are.

import html
from pathlib import Path as FilePath
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, Path, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from hpe_airflow.connections import s3_client
from hpe_tasks.config.environment import Settings
from hpe_tasks.errors import AccessError, HpeError, MissingInputError
from hpe_tasks.pipeline.runs import Run, find_run
from hpe_tasks.pipeline.steps import STEPS
from hpe_tasks.records import PublishedModel
from hpe_tasks.storage.s3 import S3Location, s3_errors

DAG_ID = "hpe_requantize"

RUN_NAME = r"^[\w+][\w.+-]*$"
"""What `open_run` makes of a run's name: no separators, no leading dot, so it stays below `runs/`."""

RunName = Annotated[str, Path(pattern=RUN_NAME, max_length=300)]


def build_app() -> FastAPI:
    """The application that Airflow mounts."""
    app = FastAPI(
        title="hpe",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN, DAG_ID))],
    )
    app.add_exception_handler(HpeError, _explain)

    # Plain functions: FastAPI runs them in threads, so reading files and S3 does not hold up the API server.
    @app.get("/runs/{name}/report")
    def report(name: RunName) -> FileResponse:
        """The run's HTML report."""
        run = _run(name)
        return _page(run.workspace.local(_record(run, "report").html))

    @app.get("/runs/{name}/version")
    def version(name: RunName) -> Response:
        """The manifest of the version that the run published."""
        return Response(_manifest(_record(_run(name), "publish")), media_type="application/json")

    return app


def _run(name: str) -> Run:
    settings = Settings.from_environment()
    return find_run(name, workspace=settings.workspace, cache=settings.cache, s3=s3_client)


def _record(run: Run, step: str) -> Any:
    """What a step left, even where its inputs have changed since: the page shows what was."""
    pointer = run.pointer(step)
    if pointer is None:
        raise MissingInputError(f"The run {run.name} has no result of the step {step}.", hint=_WHY_MISSING[step])
    record = run.recorded(STEPS[step].kind)
    if record is None:
        raise MissingInputError(
            f"The result of the step {step} in {run.name} was made by another version of the project.",
            hint="Run the step again.",
        )
    return record


_WHY_MISSING = {
    "report": "It appears when the task `report` has finished.",
    "publish": "It is there once the gate has passed and the task `publish` has finished; the report says why not.",
}


def _page(file: FilePath) -> FileResponse:
    # The report brings its own styles and pictures and talks to nobody.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; sandbox allow-popups"
    return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": policy})


def _manifest(published: PublishedModel) -> bytes:
    where = S3Location.parse(published.manifest.uri)
    with s3_errors(where, "reading"):
        return s3_client().get_object(Bucket=where.bucket, Key=where.key)["Body"].read()


def _explain(_: Request, error: Exception) -> HTMLResponse:
    missing = isinstance(error, (MissingInputError, AccessError))
    return HTMLResponse(f"<!doctype html><title>hpe</title><p>{html.escape(str(error))}</p>", 404 if missing else 502)
