"""A registered checkpoint starts a run of hpe_requantize: the scheduler, the API and the tasks as a team has them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from support.airflow_server import AirflowServer, airflow_server
from support.retrained import retraining_settings
from support.tiny_inputs import tiny_settings

__all__ = ["airflow_server"]

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(1200)]

ASSET = "hpe_registered_checkpoint"


@pytest.fixture(scope="module", autouse=True)
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The DAG's own settings, in which the checkpoint is another than the one that will be registered."""
    own = tiny_settings(tmp_path_factory.mktemp("own")) | {"gate.min_ap": 0.0, "destination.channel": "production"}
    network = {key: own.pop(key) for key in [key for key in own if key.startswith("model.")]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPE_REQUANTIZE_SCHEDULE", ASSET)
        patch.setenv("HPE_REQUANTIZE_PARAMS", json.dumps(own))
        yield own | network


def test_a_run_quantizes_the_checkpoint_that_has_started_it(
    settings: dict[str, Any], airflow_server: AirflowServer
) -> None:
    content = Path(settings["model.checkpoint"]).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    key = f"registry/checkpoints/sha256/{digest}.safetensors"
    airflow_server.store.client().put_object(Bucket="hpe-models", Key=key, Body=content)
    api, session = f"{airflow_server.url}/api/v2", airflow_server.session("admin")
    answer = session.patch(f"{api}/dags/hpe_requantize", json={"is_paused": False}, timeout=120)
    assert answer.status_code == 200, answer.text
    found = session.get(f"{api}/assets", params={"name_pattern": ASSET}, timeout=120).json()["assets"]
    network = {"input_width": 64, "input_height": 64, "width_multiplier": 0.25}
    extra = {"checkpoint": f"s3://hpe-models/{key}", "sha256": digest, "model": network, "reason": "better"}
    event = {"asset_id": found[0]["id"], "extra": extra}
    answer = session.post(f"{api}/assets/events", json=event, timeout=120)
    assert answer.status_code == 200, answer.text

    # All of its tasks go by the event, the first and those after it.
    asked, fetched = _started(airflow_server, str(extra["checkpoint"]))
    assert asked["model"]["checkpoint_sha256"] == digest
    assert {key: asked["model"][key] for key in network} == network
    assert (asked["gate"]["min_ap"], asked["destination"]["channel"]) == (0.0, "production")
    assert asked["dataset"]["source"] == settings["dataset.source"]
    assert fetched["file"]["sha256"] == digest
    runs = session.get(f"{api}/dags/hpe_requantize/dagRuns", timeout=120).json()["dag_runs"]
    assert [run["run_type"] for run in runs] == ["asset_triggered"]


def test_a_retraining_starts_a_run_by_its_own_event(airflow_server: AirflowServer, tmp_path: Path) -> None:
    """From the data set of one DAG to the quantization in the other, with nobody in between."""
    api, session = f"{airflow_server.url}/api/v2", airflow_server.session("admin")
    for dag in ("hpe_retrain", "hpe_requantize"):
        session.patch(f"{api}/dags/{dag}", json={"is_paused": False}, timeout=120).raise_for_status()
    conf = retraining_settings(tmp_path) | {"destination.name": "retrained"}
    answer = session.post(f"{api}/dags/hpe_retrain/dagRuns", json={"logical_date": None, "conf": conf}, timeout=120)
    assert answer.status_code == 200, answer.text
    retrained = f"{api}/dags/hpe_retrain/dagRuns/{quote(answer.json()['dag_run_id'])}"
    deadline = time.monotonic() + 600
    while (state := session.get(retrained, timeout=120).json()["state"]) not in {"success", "failed"}:
        assert time.monotonic() < deadline, f"the retraining is {state}; see {airflow_server.home}/.airflow/logs"
        time.sleep(1)
    assert state == "success"

    def events() -> list[dict[str, Any]]:
        asked = {"source_dag_id": "hpe_retrain"}
        found: list[dict[str, Any]] = session.get(f"{api}/assets/events", params=asked, timeout=120).json()[
            "asset_events"
        ]
        return found

    (event,) = events()
    assert (event["source_task_id"], event["name"]) == ("announce_checkpoint", ASSET)
    asked, fetched = _started(airflow_server, event["extra"]["checkpoint"])
    assert asked["destination"]["channel"] == "production"
    assert fetched["file"]["sha256"] == asked["model"]["checkpoint_sha256"] == event["extra"]["sha256"]
    (run,) = events()[0]["created_dagruns"]
    assert (run["dag_id"], run["run_id"][:17]) == ("hpe_requantize", "asset_triggered__")


def _started(server: AirflowServer, checkpoint: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the run with this checkpoint was asked, and what it has fetched, as soon as that is there."""
    runs, deadline = server.home / ".hpe/workspace/runs", time.monotonic() + 400
    while time.monotonic() < deadline:
        for file in runs.glob("*/fetch_checkpoint/result.json"):
            asked: dict[str, Any] = json.loads((file.parents[1] / "run.json").read_text())["config"]
            if asked["model"]["checkpoint"] == checkpoint:
                return asked, json.loads(file.read_text())["record"]
        time.sleep(1)
    pytest.fail(f"no run has fetched {checkpoint}; see {server.home}/.airflow/logs")
