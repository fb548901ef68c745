"""A registered checkpoint starts a run of hpe_requantize: the scheduler, the API and the tasks as a team has them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.airflow_server import AirflowServer, airflow_server
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
    fetched = _record(airflow_server.home / ".hpe/workspace/runs", "fetch_checkpoint")
    (folder,) = (airflow_server.home / ".hpe/workspace/runs").iterdir()
    asked = json.loads((folder / "run.json").read_text())["config"]
    assert (asked["model"]["checkpoint"], asked["model"]["checkpoint_sha256"]) == (extra["checkpoint"], digest)
    assert {key: asked["model"][key] for key in network} == network
    assert (asked["gate"]["min_ap"], asked["destination"]["channel"]) == (0.0, "production")
    assert asked["dataset"]["source"] == settings["dataset.source"]
    assert fetched["file"]["sha256"] == digest
    runs = session.get(f"{api}/dags/hpe_requantize/dagRuns", timeout=120).json()["dag_runs"]
    assert [run["run_type"] for run in runs] == ["asset_triggered"]


def _record(runs: Path, step: str) -> dict[str, Any]:
    """What a step of the only run has left, as soon as it is there."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        for file in runs.glob(f"*/{step}/result.json"):
            record: dict[str, Any] = json.loads(file.read_text())["record"]
            return record
        time.sleep(1)
    pytest.fail(f"{step} has not run; see {runs.parents[2]}/.airflow/logs")
