"""The variables that let a DAG run by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SETTINGS = {"preset": "pose_resnet_50", "model.checkpoint": "a.pth", "dataset.source": "d"}


@pytest.mark.parametrize(
    ("name", "variables", "schedule", "params"),
    [
        pytest.param("hpe_requantize", {}, None, {"preset": "sample"}, id="requantize, off"),
        pytest.param(
            *("hpe_requantize", {"HPE_REQUANTIZE_SCHEDULE": "@weekly"}, "@weekly", {"preset": "sample"}),
            id="requantize, weekly",
        ),
        pytest.param(
            "hpe_requantize",
            {"HPE_REQUANTIZE_SCHEDULE": "@weekly", "HPE_REQUANTIZE_PARAMS": json.dumps(SETTINGS)},
            "@weekly",
            SETTINGS,
            id="requantize, weekly with its own settings",
        ),
        pytest.param("hpe_selftest", {}, None, {}, id="self-test, off"),
        pytest.param("hpe_selftest", {"HPE_SELFTEST_SCHEDULE": "@weekly"}, "@weekly", {}, id="self-test, weekly"),
    ],
)
def test_a_documented_variable_switches_the_schedule_on(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    dag_bag: Any,
    name: str,
    variables: dict[str, str],
    schedule: str | None,
    params: dict[str, str],
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    bag = DagBag(repository / "dags")
    assert bag.import_errors == {}
    dag = bag.dags[name]
    # Unpausing a DAG with a schedule starts a run at once.
    assert (str(dag.schedule), dag.is_paused_upon_creation) == (str(schedule), schedule is not None)
    assert {key: dag.params[key] for key in params} == params
    assert all(variable in str(dag.doc_md) for variable in variables)
