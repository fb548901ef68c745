"""The variables that let a DAG run by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SETTINGS = {"preset": "pose_resnet_50", "model.checkpoint": "a.pth", "dataset.source": "d"}

TRAINING = {**SETTINGS, "training.start": "live", "training.epochs": 3}


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
        pytest.param("hpe_retrain", {}, None, {"preset": "sample"}, id="retrain, off"),
        pytest.param(
            "hpe_retrain",
            {"HPE_RETRAIN_SCHEDULE": "@weekly", "HPE_RETRAIN_PARAMS": json.dumps(TRAINING)},
            "@weekly",
            TRAINING,
            id="retrain, weekly with its own settings",
        ),
        pytest.param("hpe_selftest", {}, None, {}, id="self-test, off"),
        pytest.param("hpe_selftest", {"HPE_SELFTEST_SCHEDULE": "@weekly"}, "@weekly", {}, id="self-test, weekly"),
        pytest.param("hpe_watch", {}, None, {"preset": "sample"}, id="watch, off"),
        pytest.param(
            "hpe_watch",
            {"HPE_WATCH_SCHEDULE": "@hourly", "HPE_REQUANTIZE_PARAMS": json.dumps(SETTINGS)},
            "@hourly",
            SETTINGS,
            id="watch, hourly what runs are asked",
        ),
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


@pytest.mark.parametrize(
    ("name", "variable", "asset"),
    [
        pytest.param("hpe_requantize", "HPE_REQUANTIZE_SCHEDULE", "hpe_registered_checkpoint", id="requantize"),
        pytest.param("hpe_retrain", "HPE_RETRAIN_SCHEDULE", "hpe_dataset", id="retrain"),
    ],
)
@pytest.mark.parametrize("also", ["", "@weekly or ", "30 4 * * 1 or "])
def test_an_asset_starts_a_dag_alone_or_beside_a_time(
    repository: Path, monkeypatch: pytest.MonkeyPatch, dag_bag: Any, name: str, variable: str, asset: str, also: str
) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    monkeypatch.setenv(variable, f"{also}{asset}")
    bag = DagBag(repository / "dags")
    assert bag.import_errors == {}
    stored = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags[name]))
    assert [one.name for one, _ in stored.timetable.asset_condition.iter_assets()] == [asset]
    assert (stored.timetable.summary == "Asset") == (also == "")
    assert bag.dags[name].is_paused_upon_creation


def test_two_times_are_refused(repository: Path, monkeypatch: pytest.MonkeyPatch, dag_bag: Any) -> None:
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("HPE_RETRAIN_SCHEDULE", "@weekly or @daily")
    (error,) = DagBag(repository / "dags").import_errors.values()
    assert "HPE_RETRAIN_SCHEDULE='@weekly or @daily' holds 2 times" in error
