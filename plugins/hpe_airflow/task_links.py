"""Further buttons on a task's page: Data Docs, the version's own page, and its comparison with what is served."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from airflow.sdk import BaseOperatorLink

from hpe_airflow.links import PAGES_PREFIX, airflow_run_path, run_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from hpe_tasks.records.release import PromotedModel, PublishedModel

RUNS_PREFIX = f"{PAGES_PREFIX}/dags"
"""Where pages stand that are asked for by Airflow's names of a run."""


def run_page(dag_id: str, run_id: str, page: str = "") -> str:
    """Address of the page of an Airflow run, or of one below it such as `data-docs`."""
    below = f"/{page}" if page else ""
    return f"{PAGES_PREFIX}{airflow_run_path(dag_id, run_id)}{below}"


def model_version_path(name: str, version: str) -> str:
    """Address of a published version's page."""
    return f"{PAGES_PREFIX}/models/{quote(name, safe='')}/{quote(version, safe='')}"


def comparison_path(name: str, *versions: str) -> str:
    """Address of the page that compares versions of a model."""
    return f"{PAGES_PREFIX}/compare?{urlencode([('version', f'{name}@{version}') for version in versions])}"


def served_before(published: PublishedModel | None, promoted: PromotedModel | None) -> str | None:
    """The other version that the channel served before this run's; None where there was none."""
    if published is None:
        return None
    before = promoted.previous_version if promoted else (published.before.version if published.before else None)
    return None if before == published.version else before


class DataDocsLink(BaseOperatorLink):
    """Opens what the data set's expectations found."""

    name = "Data Docs"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Address of the page; Airflow asks when the task ends and keeps the answer."""
        return run_page(ti_key.dag_id, ti_key.run_id, "data-docs")


class VersionPageLink(BaseOperatorLink):
    """Opens the page of the published version."""

    name = "Version page"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Address of the page; empty where nothing was published."""
        from hpe_tasks.pipeline import steps

        published = run_of(ti_key).recorded(steps.publish)
        return model_version_path(published.name, published.version) if published else ""


class ServedComparisonLink(BaseOperatorLink):
    """Opens the comparison of the published version with the one that the channel served before."""

    name = "Compare with served"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Address of the comparison; empty where there is no other version to compare with."""
        from hpe_tasks.pipeline import steps

        run = run_of(ti_key)
        published = run.recorded(steps.publish)
        served = served_before(published, run.recorded(steps.promote))
        return comparison_path(published.name, published.version, served) if published and served else ""
