"""Registers the project's extensions with Airflow.

Every Airflow process loads this file, so it imports nothing heavy: the pages are built when the first one is asked for.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin
from hpe_airflow import run_notes
from hpe_airflow.lazy_app import LazyApp
from hpe_airflow.links import PAGES_PREFIX
from hpe_airflow.task_links import RUNS_PREFIX
from hpe_airflow.trigger_check import TriggerCheck


class HpePlugin(AirflowPlugin):
    """Pages about models and runs, and the check of a run's configuration at its trigger."""

    name = "hpe"
    fastapi_apps: list[Any] = [  # noqa: RUF012 - Airflow's base class declares a plain list
        # Before the other, whose prefix is a part of this one.
        {"name": "hpe runs", "url_prefix": RUNS_PREFIX, "app": LazyApp("hpe_airflow.run_tab:build_app")},
        {"name": "hpe", "url_prefix": PAGES_PREFIX, "app": LazyApp("hpe_airflow.pages:build_app")},
    ]
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012
        {"name": "hpe trigger check", "middleware": TriggerCheck}
    ]
    external_views: list[Any] = [  # noqa: RUF012
        {
            "name": "Models",
            "href": f"{PAGES_PREFIX}/models",
            "destination": "nav",
            "url_route": "hpe-models",
            "nav_top_level": True,
        },
        {
            "name": "Pose model",
            "href": f"{RUNS_PREFIX}/{{DAG_ID}}/runs/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "hpe-run",
        },
        {
            "name": "Last values",
            "href": f"{RUNS_PREFIX}/{{DAG_ID}}/values",
            "destination": "dag",
            "url_route": "hpe-values",
        },
    ]
    listeners: list[Any] = [run_notes]  # noqa: RUF012
