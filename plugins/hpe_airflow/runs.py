"""From an Airflow task to the pipeline's run: which configuration, which name, which workspace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hpe_airflow.assets import event_settings
from hpe_airflow.connections import s3_client, signing_key, use_web_connections
from hpe_airflow.params_form import config_from_params
from hpe_tasks.config.addresses import credentials_in
from hpe_tasks.config.environment import Settings
from hpe_tasks.pipeline.listing import listed_pipelines
from hpe_tasks.pipeline.runs import FIRST_PIPELINE, Run, open_run

if TYPE_CHECKING:
    from airflow.sdk import Context


def open_run_from_context(context: Mapping[str, Any] | Context | None = None) -> Run:
    """The run that the current task belongs to.

    Args:
        context: Airflow's task context; the current one by default.

    Raises:
        ConfigError: The run's parameters do not make a valid configuration.
    """
    if context is None:
        from airflow.sdk import get_current_context

        context = get_current_context()
    from airflow.sdk.log import mask_secret

    use_web_connections()
    settings = Settings.from_environment()
    # The run of an asset's event goes by what the event carries, and else by the form's defaults.
    config = config_from_params({**context["params"], **event_settings(context)})
    for credential in credentials_in(config):
        mask_secret(credential)  # Whatever writes it into the task's log.
    return open_run(
        config,
        workspace=settings.workspace,
        cache=settings.cache,
        name=run_name(context),
        s3=s3_client,
        signing_key=signing_key,
        pipeline=pipeline_name(context),
    )


def pipeline_name(context: Mapping[str, Any] | Context) -> str:
    """The pipeline of an Airflow run: its DAG has the same name."""
    dag_id = getattr(context.get("dag"), "dag_id", "")
    return dag_id if dag_id in {pipeline.name for pipeline in listed_pipelines()} else FIRST_PIPELINE


def run_name(context: Mapping[str, Any] | Context) -> str:
    """A name that all tasks of an Airflow run share.

    It comes from the logical date, because `airflow tasks test` makes a new run id for each task, and from the run id
    where a run has no logical date.
    """
    logical_date = context.get("logical_date")
    if logical_date is None:
        return str(context["run_id"])
    return f"{logical_date:%Y-%m-%dT%H%M%S}" + (f".{logical_date.microsecond:06d}" if logical_date.microsecond else "")
