"""Airflow with its own database, an S3 server in memory, and a data set and checkpoint that take seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import airflow_home

if TYPE_CHECKING:
    from hpe_tasks.local.object_store import Server

HOME = airflow_home.prepare()


@pytest.fixture(scope="session")
def dag_bag() -> Any:
    """The DAGs of this checkout, with Airflow's database ready."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    return DagBag(airflow_home.REPOSITORY / "dags")


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory, object_store_python: Path) -> Iterator[Server]:
    """The embedded S3 server with the bucket `hpe-models`."""
    from hpe_tasks.local.object_store import ObjectStore

    with ObjectStore(tmp_path_factory.mktemp("object-store"), object_store_python) as server:
        yield server


@pytest.fixture
def s3_server(object_store: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of the embedded S3 server, known to boto3 by the usual variables for one test."""
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    # The session that all clients of a process share would keep these credentials for the tests of other folders.
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    return object_store.endpoint


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run that takes seconds: a small drawn data set and a network that has learned nothing."""
    from support.tiny_inputs import tiny_settings

    return tiny_settings(tmp_path_factory.mktemp("tiny"))
