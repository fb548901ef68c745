"""A home for Airflow that belongs to this test process: this checkout's configuration and DAGs, its own state.

Airflow reads its environment when it is first imported, so `prepare()` runs in the conftest of every folder whose tests
import it, before they do.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def environment(home: Path) -> dict[str, str]:
    """The variables that make `home` an Airflow home with this checkout's configuration, DAGs and plugins."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONFIG": str(REPOSITORY / "airflow.cfg"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "HPE_WORKSPACE": (home / ".hpe" / "workspace").as_uri(),
        "HPE_CACHE": str(home / ".hpe" / "cache"),
        # Two test processes and AIMET's threads share the machine.
        "OMP_NUM_THREADS": "2",
    }


@cache
def prepare() -> Path:
    """Make the home of this process and point the environment to it."""
    home = Path(tempfile.mkdtemp(prefix="airflow-"))
    os.environ.update(environment(home))
    return home


def remove() -> None:
    """Remove the home after the last test; pytest-xdist ends its workers without their exit functions."""
    if prepare.cache_info().currsize:
        shutil.rmtree(prepare(), ignore_errors=True)
