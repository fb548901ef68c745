"""Airflow with its own database for the tests of what the project adds to it."""

from __future__ import annotations

from typing import Any

import pytest

from support import airflow_home

HOME = airflow_home.prepare()


@pytest.fixture(scope="session")
def airflow_database() -> Any:
    """Airflow's metadata database, ready to be used."""
    from airflow.utils.db import initdb

    initdb()
