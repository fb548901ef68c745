"""What the project's DAGs tell each other of: assets, and the settings that an asset's event carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset

PUBLISHED_MODEL = Asset("hpe_published_model", group="hpe")
"""Changes when a channel serves a published version; its events carry `name`, `version`, `channel` and `registry`."""

REGISTERED_CHECKPOINT = Asset("hpe_registered_checkpoint", group="hpe")
"""Changes when a checkpoint is registered that is better than the live version's.

Its events carry `checkpoint`, its address; `sha256`; `model`, the network's settings; and `reason`.
"""

DATASET = Asset("hpe_dataset", group="hpe")
"""Changes when there is new data to learn from: whoever brings it says so.

Its events may carry `source`, the address, and `sha256`, that of an archive.
"""

_OF_THE_OLD_CHECKPOINT = {"model.trained_on": None}


def event_settings(context: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run goes by because an asset's event started it, by the form's keys; none otherwise.

    Of several events of one asset the last one counts. What else an event carries is nobody's setting here.

    Args:
        context: Of a task.
    """
    events = context.get("triggering_asset_events") or {}
    settings: dict[str, Any] = {}
    if extra := _last(events, DATASET):
        given = {"dataset.source": extra.get("source"), "dataset.sha256": extra.get("sha256")}
        # Another archive has another digest.
        settings |= given if extra.get("source") else {}
    if extra := _last(events, REGISTERED_CHECKPOINT):
        settings |= {f"model.{key}": value for key, value in (extra.get("model") or {}).items()}
        settings |= {"model.checkpoint": extra.get("checkpoint"), "model.checkpoint_sha256": extra.get("sha256")}
        settings |= _OF_THE_OLD_CHECKPOINT
    return settings


def _last(events: Mapping[Any, Sequence[Any]], asset: Asset) -> Mapping[str, Any]:
    found = [event for key, of_key in events.items() if getattr(key, "name", None) == asset.name for event in of_key]
    return max(found, key=lambda event: event.timestamp).extra or {} if found else {}
