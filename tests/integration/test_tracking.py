"""Trainings are told to a real tracking server: MLflow's own, as a process on a loopback port."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from hpe_tasks.records.training_curves import stage_name
from hpe_tasks.training.observers import observers_for
from hpe_tasks.training.tracking import TrackedRuns
from support.mlflow_server import free_port, mlflow_server
from support.observed_training import SETTINGS, observed_training

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), free_port()) as address:
        yield address


def runs_of(address: str, experiment: str) -> list[Run]:
    client = MlflowClient(tracking_uri=address)
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id], order_by=["start_time ASC"]))


def test_a_training_is_a_run_with_settings_curves_and_files(
    server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    environment = {
        "MLFLOW_TRACKING_URI": server.replace("http://", "http://user:pass-word@"), "MLFLOW_EXPERIMENT_NAME": "told"
    }  # fmt: skip
    observed_training(observers_for(tmp_path / "curves", environment), files=[weights])
    [run] = runs_of(server, "told")
    assert (run.info.status, run.info.run_name) == ("FINISHED", stage_name(SETTINGS))
    assert {"architecture": "pose_mobilenet", "learning_rate": "0.05", "steps": "12"}.items() <= run.data.params.items()
    client = MlflowClient(tracking_uri=server)
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted(point.step for point in losses) == list(range(1, 13))
    assert [point.value for point in client.get_metric_history(run.info.run_id, "epoch/ap")] == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    assert {"activation_max/6", "train/examples_per_s", "result/ap"} <= run.data.metrics.keys()
    stored = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert stored == {"weights.safetensors", "curves.html", "curves.jsonl"}
    kept = client.download_artifacts(run.info.run_id, "weights.safetensors", str(tmp_path))
    assert Path(kept).read_bytes() == b"weights"
    captured = capfd.readouterr()
    remembered = (tmp_path / "curves" / "mlflow_runs.json").read_text()
    assert "pass-word" not in caplog.text + captured.out + captured.err + remembered
    assert caplog.records == []


def test_a_training_that_is_taken_up_again_goes_on_in_its_run(server: str, tmp_path: Path) -> None:
    def tracked() -> TrackedRuns:
        return TrackedRuns(server, tmp_path, experiment="taken up")

    killed = tracked()
    observed_training([killed], stop_after=9)
    assert killed._teller is not None
    killed._teller.finish()
    observed_training([tracked()], done=8)
    [run] = runs_of(server, "taken up")
    assert run.info.status == "FINISHED"
    steps = MlflowClient(tracking_uri=server).get_metric_history(run.info.run_id, "train/loss")
    assert sorted({point.step for point in steps}) == list(range(1, 13))
    # The same from its beginning is another run.
    observed_training([tracked()])
    assert len(runs_of(server, "taken up")) == 2


def test_a_server_that_comes_back_has_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    observer = TrackedRuns(f"http://127.0.0.1:{port}", tmp_path, retry_s=0.2, patience_s=300)
    observed_training([observer], stop_after=12)
    until = time.monotonic() + 120
    while not any(record.name.startswith("hpe_tasks") for record in caplog.records) and time.monotonic() < until:
        time.sleep(0.05)
    with mlflow_server(tmp_path, port) as address:
        observer.ends({"ap": 0.5}, [])
        [run] = runs_of(address, "hpe_tasks")
        steps = MlflowClient(tracking_uri=address).get_metric_history(run.info.run_id, "train/loss")
    assert (run.info.status, len(steps)) == ("FINISHED", 12)
    [warning] = [record.getMessage() for record in caplog.records if record.name.startswith("hpe_tasks")]
    assert "does not take what it is told" in warning
