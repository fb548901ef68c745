"""The DAG that trains: its tasks, and what it starts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.storage.s3 import make_client
from support.retrained import config_of, retraining_settings, serve_version

DATES = (datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=day) for day in count())
ASSET = "hpe_registered_checkpoint"
SHARDS = ("evaluate_checkpoint_shards", "evaluate_parent_shards")


@pytest.fixture(scope="session")
def dag(dag_bag: Any) -> Any:
    return dag_bag.dags["hpe_retrain"]


def test_the_tasks_are_the_steps_in_their_order(dag: Any) -> None:
    assert {task.task_id: task.upstream_task_ids for task in dag.tasks} == {
        "fetch_dataset": set(),
        "validate_dataset": {"fetch_dataset"},
        "fetch_start": set(),
        "train": {"validate_dataset", "fetch_start"},
        "evaluate_checkpoint_shards": {"train"},
        "evaluate_checkpoint": {"train", "evaluate_checkpoint_shards"},
        "find_live": {"evaluate_checkpoint"},
        "evaluate_parent_shards": {"validate_dataset", "find_live"},
        "evaluate_parent": {"validate_dataset", "find_live", "evaluate_parent_shards"},
        "compare_checkpoints": {"evaluate_checkpoint", "find_live", "evaluate_parent"},
        "register_checkpoint": {"compare_checkpoints"},
        "announce_checkpoint": {"register_checkpoint"},
        "report": {"announce_checkpoint", "fetch_start", "validate_dataset"},
    }


def test_training_goes_to_the_gpu_worker_and_a_better_checkpoint_is_an_asset(dag: Any) -> None:
    train = dag.get_task("train")
    assert (train.queue, train.pool) == ("gpu", "gpu_pool")
    assert {task.task_id: [one.name for one in task.outlets] for task in dag.tasks if task.outlets} == {
        "announce_checkpoint": [ASSET]
    }
    assert (dag.schedule, dag.max_active_runs, dag.catchup) == (None, 1, False)
    assert all(task.execution_timeout for task in dag.tasks)


def test_the_forms_hold_what_changes_something(dag: Any, dag_bag: Any) -> None:
    requantize = dag_bag.dags["hpe_requantize"].params
    assert {key.partition(".")[0] for key in dag.params} >= {"training", "model", "destination", "gate"}
    assert not [key for key in dag.params if key.startswith("recipe")]
    assert not [key for key in requantize if key.startswith("training.")]


def run(dag: Any, settings: dict[str, Any]) -> tuple[str, dict[str, str]]:
    from airflow.dag_processing.dagbag import DagBag

    # Airflow writes a run's settings into the parameters of the DAG, where the next one in this process finds them.
    parsed = DagBag(dag.fileloc).dags[dag.dag_id]
    finished = parsed.test(logical_date=next(DATES), run_conf=settings)
    return str(finished.state), {ti.task_id: str(ti.state) for ti in finished.get_task_instances()}


def events() -> list[dict[str, Any]]:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        asset = session.scalar(select(AssetModel).where(AssetModel.name == ASSET))
        found = select(AssetEvent).where(AssetEvent.asset_id == (asset.id if asset else -1)).order_by(AssetEvent.id)
        return [dict(event.extra) for event in session.scalars(found)]


@pytest.mark.long
@pytest.mark.usefixtures("s3_server")
def test_a_better_checkpoint_has_an_event_and_an_equal_one_has_none(dag: Any, tmp_path: Path) -> None:
    settings = retraining_settings(tmp_path) | {"destination.name": "retrained"}
    state, tasks = run(dag, settings)
    assert state == "success"
    assert {task for task, how in tasks.items() if how != "success"} == {"evaluate_parent", *SHARDS}
    (event,) = events()
    assert event["checkpoint"] == f"s3://hpe-models/registry/checkpoints/sha256/{event['sha256']}.safetensors"
    assert event["model"]["architecture"] == "pose_mobilenet"
    assert "serves no version" in event["reason"]

    # The training changes next to nothing, so that its checkpoint is as good as the one that is served now.
    serve_version(make_client(), config_of(settings), tmp_path / "served", "sample", sample_checkpoint())
    state, tasks = run(dag, settings)
    assert state == "success"
    assert {task for task, how in tasks.items() if how != "success"} == {"announce_checkpoint", *SHARDS}
    assert tasks["announce_checkpoint"] == "skipped"
    assert len(events()) == 1
