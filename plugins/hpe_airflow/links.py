"""Buttons on a task's page in Airflow: to the run's report and to what it published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from hpe_tasks.pipeline.runs import Run

PAGES_PREFIX = "/hpe"
"""Where Airflow's API server shows the project's own pages."""


def airflow_run_path(dag_id: str, run_id: str) -> str:
    """Address of Airflow's own page of a run."""
    return f"/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def report_path(run: str) -> str:
    """Address of a run's report on Airflow's API server."""
    return f"{PAGES_PREFIX}/runs/{quote(run, safe='')}/report"


def version_path(run: str) -> str:
    """Address of the manifest that a run published."""
    return f"{PAGES_PREFIX}/runs/{quote(run, safe='')}/version"


def with_links(output: Any, *links: BaseOperatorLink) -> Any:
    """Put buttons on a task; takes and returns what calling a `@task` function gives."""
    output.operator.operator_extra_links = links
    return output


class ReportLink(BaseOperatorLink):
    """Opens the run's HTML report."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Address of the report; Airflow asks when the task ends and keeps the answer."""
        return report_path(run_of(ti_key).name)


class VersionLink(BaseOperatorLink):
    """Opens the manifest of the published version."""

    name = "Published version"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Address of the manifest; Airflow asks when the task ends and keeps the answer."""
        return version_path(run_of(ti_key).name)


def run_of(instance: Any) -> Run:
    """The pipeline's run; `instance` is the task instance that has just ended."""
    from hpe_airflow.runs import open_run_from_context

    return open_run_from_context(instance.get_template_context())
