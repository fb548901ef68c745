"""The variables that let a DAG run by itself."""

from __future__ import annotations

import json
from datetime import timedelta
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


def test_people_are_told_of_what_the_dags_come_to(dag_bag: Any) -> None:
    def told(dag_id: str, task_id: str, when: str) -> list[str]:
        callbacks = getattr(dag_bag.dags[dag_id].get_task(task_id), f"on_{when}_callback") or ()
        return [type(one).__name__ for one in callbacks]

    for dag_id, dag in dag_bag.dags.items():
        assert dag.deadline in (None, []), dag_id
        for task in dag.tasks:
            assert "FailedTask" in told(dag_id, task.task_id, "failure"), f"{dag_id}.{task.task_id}"
    hooked = {
        (dag_id, task.task_id): names
        for dag_id, dag in dag_bag.dags.items()
        for task in dag.tasks
        if (names := told(dag_id, task.task_id, "success"))
    }
    assert hooked == {
        ("hpe_requantize", "promote"): ["PromotedVersion"],
        ("hpe_requantize", "report"): ["RefusedModel"],
        ("hpe_watch", "evaluate_triggers"): ["DriftedRequests"],
    }


def test_a_run_has_so_many_hours(repository: Path, monkeypatch: pytest.MonkeyPatch, dag_bag: Any) -> None:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    monkeypatch.setenv("HPE_ALERT_LATE_HOURS", "0.5")
    bag = DagBag(repository / "dags")
    assert bag.import_errors == {}
    for dag in bag.dags.values():
        deadlines: Any = dag.deadline
        (alert,) = deadlines
        assert (alert.name, alert.interval) == ("late", timedelta(minutes=30))
        assert DagSerialization.to_dict(dag)
    monkeypatch.setenv("HPE_ALERT_LATE_HOURS", "soon")
    errors = DagBag(repository / "dags").import_errors
    assert len(errors) == len(dag_bag.dags)
    assert all("HPE_ALERT_LATE_HOURS='soon' is not a number of hours" in error for error in errors.values())
