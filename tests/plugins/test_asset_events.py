"""What a run goes by that an asset's event has started."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import Asset
from hpe_airflow.assets import event_settings
from hpe_airflow.params_form import config_from_params

BEGIN = datetime(2026, 5, 1, tzinfo=UTC)
CHECKPOINT = {
    "checkpoint": "s3://hpe-models/registry/checkpoints/sha256/a.safetensors",
    "sha256": "a" * 64,
    "model": {"architecture": "pose_mobilenet", "input_width": 64, "input_height": 64, "mean": [0.5, 0.5, 0.5]},
    "reason": "better",
    "gate.min_ap": 0.0,
}


@dataclass(frozen=True)
class Event:
    """As Airflow gives an event to a task."""

    extra: dict[str, Any] | None
    timestamp: datetime = BEGIN


def context(**events: list[Event]) -> dict[str, Any]:
    return {"triggering_asset_events": {Asset(name): found for name, found in events.items()}}


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({}, id="no events"),
        pytest.param({"triggering_asset_events": {}}, id="none"),
        pytest.param(context(another=[Event(CHECKPOINT)]), id="another asset"),
        pytest.param(context(hpe_dataset=[Event(None)]), id="nothing with it"),
        pytest.param(context(hpe_dataset=[Event({"sha256": "b" * 64})]), id="a digest of nothing"),
    ],
)
def test_a_run_goes_by_its_form_where_no_event_says_otherwise(given: dict[str, Any]) -> None:
    assert event_settings(given) == {}


def test_a_registered_checkpoint_is_quantized_under_the_dags_own_gate_and_channel() -> None:
    form = {
        "preset": "sample",
        "gate.min_ap": 0.7,
        "destination.channel": "production",
        "model.checkpoint_sha256": "c" * 64,
        "model.trained_on": "What was there before.",
    }
    earlier = Event(CHECKPOINT | {"sha256": "b" * 64, "checkpoint": "s3://b/b.safetensors"}, BEGIN - timedelta(days=1))
    events = context(hpe_registered_checkpoint=[Event(CHECKPOINT), earlier])
    config = config_from_params({**form, **event_settings(events)})
    assert (config.model.checkpoint, config.model.checkpoint_sha256) == (CHECKPOINT["checkpoint"], "a" * 64)
    assert (config.model.input_size, config.model.mean, config.model.trained_on) == ((64, 64), (0.5, 0.5, 0.5), None)
    assert (config.gate.min_ap, config.destination.channel) == (0.7, "production")


def test_a_new_data_set_is_what_is_learned_from() -> None:
    form = {"preset": "pose_mobilenet_coco2017", "model.checkpoint": "w.pth", "dataset.sha256": "c" * 64}
    found = event_settings(context(hpe_dataset=[Event({"source": "s3://data/people.zip"})]))
    config = config_from_params({**form, **found})
    assert (config.dataset.source, config.dataset.sha256) == ("s3://data/people.zip", None)
