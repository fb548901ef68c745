"""Registers the project's extensions with Airflow.

Every Airflow process loads this file, so it imports nothing heavy: the pages are built when the first one is asked for.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin
from hpe_airflow.lazy_app import LazyApp
from hpe_airflow.links import PAGES_PREFIX
from hpe_airflow.trigger_check import TriggerCheck


class HpePlugin(AirflowPlugin):
    """Pages about models and runs, and the check of a run's configuration at its trigger."""

    name = "hpe"
    fastapi_apps: list[Any] = [  # noqa: RUF012 - Airflow's base class declares a plain list
        {"name": "hpe", "url_prefix": PAGES_PREFIX, "app": LazyApp("hpe_airflow.pages:build_app")}
    ]
    external_views: list[Any] = [  # noqa: RUF012
        {
            "name": "Models",
            "href": f"{PAGES_PREFIX}/models",
            "destination": "nav",
            "url_route": "hpe-models",
            "nav_top_level": True,
        }
    ]
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012
        {"name": "hpe trigger check", "middleware": TriggerCheck}
    ]
