"""Pages that Airflow shows as tabs: a run's verdict, stages and report, and the last values of each model.

They are asked for by Airflow's own names, and guarded as all that is seen of the DAG's runs.
"""

# No `from __future__ import annotations` here: FastAPI must see the annotations as they are.

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import select

from hpe_airflow.connections import s3_client
from hpe_airflow.links import report_path, version_path
from hpe_airflow.pages import Pages, explain, report_page
from hpe_airflow.params_form import DEFAULT_PRESET
from hpe_airflow.run_names import RUN_KEY, VERDICT_KEY, kept_value
from hpe_airflow.run_notes import verdict_of_note
from hpe_airflow.runs import run_name
from hpe_airflow.task_links import comparison_path, model_version_path, run_page, served_before
from hpe_tasks.config.addresses import redacted
from hpe_tasks.config.environment import Settings
from hpe_tasks.config.presets import PRESETS
from hpe_tasks.errors import HpeError, MissingInputError
from hpe_tasks.pipeline.listing import listed_pipelines
from hpe_tasks.pipeline.runs import Run, find_run

_MOST_RUNS = 300
"""How many of a DAG's last runs are looked through for the values of models."""

_ENDED = ("success", "failed")


def build_app() -> FastAPI:
    """The application that Airflow mounts."""
    app = Pages(title="hpe runs", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(_allowed)])
    app.add_exception_handler(HpeError, explain)

    # Plain functions: FastAPI runs them in threads, so reading files and S3 does not hold up the API server.
    @app.get("/{dag_id}/runs/{run_id}")
    def tab(dag_id: str, run_id: str) -> HTMLResponse:
        """A run's verdict, its stages and its report."""
        return _shown("run_tab.html", **_run_view(dag_id, run_id))

    @app.get("/{dag_id}/runs/{run_id}/data-docs")
    def data_docs(dag_id: str, run_id: str) -> FileResponse:
        """What the expectations found in a run's data set."""
        from hpe_tasks.pipeline import steps

        run = _opened(*_looked_up(dag_id, run_id)[:2])
        validation = None if run is None else run.recorded(steps.validate_dataset)
        if run is None or validation is None:
            raise MissingInputError(
                "This run has no Data Docs.", hint="They appear when the task validate_dataset has looked at the data."
            )
        return report_page(run.workspace.local(validation.data_docs))

    @app.get("/{dag_id}/values")
    def values(dag_id: str) -> HTMLResponse:
        """What the last run of each model was asked."""
        return _shown("run_values.html", dag_id=dag_id, models=list(_last_values(dag_id)))

    return app


def _allowed(dag_id: str, request: Request, user: GetUserDep) -> None:
    """Refuse those who may not see the runs of the DAG."""
    requires_access_dag("GET", DagAccessEntity.RUN, dag_id)(request, user)


def _looked_up(dag_id: str, run_id: str) -> tuple[DagRun, str | None, str | None]:
    """A run as Airflow has it, the name of the pipeline's, and its verdict as far as there is one.

    Raises:
        MissingInputError: Airflow has no such run, or it is of another DAG than a pipeline's.
    """
    if dag_id not in {pipeline.name for pipeline in listed_pipelines()}:
        raise MissingInputError("This DAG is none of the pose models': its runs have nothing to show here.")
    with create_session() as session:
        found = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if found is None:
            raise MissingInputError("Airflow has no such run.")
        told = kept_value(found, RUN_KEY, session), kept_value(found, VERDICT_KEY, session)
        session.expunge(found)
        return found, *told


def _opened(dag_run: DagRun, name: str | None) -> Run | None:
    """The pipeline's run; None where no task of it has begun, or nothing is left of it."""
    settings = Settings.from_environment()
    # Runs from before tasks named theirs are found by the name that all tasks share.
    named = name or run_name({"logical_date": dag_run.logical_date, "run_id": dag_run.run_id})
    try:
        return find_run(named, workspace=settings.workspace, cache=settings.cache, s3=s3_client)
    except MissingInputError:
        return None


def _run_view(dag_id: str, run_id: str) -> dict[str, Any]:
    dag_run, name, verdict = _looked_up(dag_id, run_id)
    state = str(dag_run.state)
    view: dict[str, Any] = {
        "state": state,
        "ended": state in _ENDED,
        "verdict": None,
        "note": verdict or "",
        "steps": [],
        "failed_checks": [],
        "links": [],
        "report": None,
        "values": _as_json(dag_run.conf or {}),
        "run": None,
    }
    run = _opened(dag_run, name)
    if run is None:
        return view
    from hpe_tasks.pipeline import steps
    from hpe_tasks.pipeline.collected import records_of
    from hpe_tasks.report.records import verdict_of

    records = records_of(run, looking_back=True)
    reported = run.pointer(steps.report.name) is not None
    return view | {
        "run": run.name,
        "preset": run.asked.preset,
        "model": run.asked.destination.name,
        "verdict": verdict_of(records),
        "steps": records.steps,
        "failed_checks": () if records.decision is None else records.decision.failed,
        "links": list(_links(dag_id, run_id, run, records, reported=reported)),
        "report": report_path(run.name) if reported else None,
    }


def _links(dag_id: str, run_id: str, run: Run, records: Any, *, reported: bool) -> Iterator[tuple[str, str]]:
    """(label, address) of what there is more to see of a run."""
    if reported:
        yield "Report alone", report_path(run.name)
    if records.validation is not None:
        yield "Data Docs", run_page(dag_id, run_id, "data-docs")
    if (published := records.published) is not None:
        yield f"{published.name} {published.version}", model_version_path(published.name, published.version)
        yield "Manifest", version_path(run.name)
        if (served := served_before(published, records.promoted)) is not None:
            yield f"Compare with {served}", comparison_path(published.name, published.version, served)


def _name_in_preset(preset: object) -> str:
    """The model that a preset publishes; the preset's own name where it is none that there is today."""
    found = PRESETS.get(str(preset or DEFAULT_PRESET))
    return str(preset) if found is None else str(found.values["destination"]["name"])


def _last_values(dag_id: str) -> Iterator[dict[str, Any]]:
    """What the last run of each model was asked, the latest first, by the model's name."""
    if dag_id not in {pipeline.name for pipeline in listed_pipelines()}:
        return
    with create_session() as session:
        runs = session.scalars(
            select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.run_after.desc()).limit(_MOST_RUNS)
        )
        seen: set[str] = set()
        for run in runs:
            conf = {key: value for key, value in (run.conf or {}).items() if value is not None}
            model = str(conf.get("destination.name") or _name_in_preset(conf.get("preset")))
            if model in seen:
                continue
            seen.add(model)
            yield {
                "model": model,
                "run_id": run.run_id,
                "began": _minute(run.start_date),
                "state": str(run.state),
                "verdict": verdict_of_note(run.note),
                "asked": _as_json(conf),
            }


def _minute(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"


def _as_json(conf: Mapping[str, Any]) -> str:
    """A run's values as the form's JSON takes them, without credentials."""
    return json.dumps(redacted({k: v for k, v in conf.items() if v is not None}), indent=1, ensure_ascii=False)


def _shown(template: str, **view: Any) -> HTMLResponse:
    environment, (style, of_style), (script, of_script) = _templates()
    page = environment.get_template(template).render(style=style, script=script, **view)
    # Its own style and script, and the report in a frame; nothing else is loaded or run.
    policy = (
        f"default-src 'none'; style-src 'sha256-{of_style}'; script-src 'sha256-{of_script}'; frame-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


@cache
def _templates() -> tuple[Environment, tuple[str, str], tuple[str, str]]:
    """What renders pages; their style and their script, each with its digest as a policy names it."""
    folder = Path(__file__).parent / "templates"
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("run_tab.css", "copy.js"))
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    return environment, (style, _digest(style)), (script, _digest(script))


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
