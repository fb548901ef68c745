"""What differs between a published version and what would be made now, each difference in plain words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from hpe_tasks.config.base import Frozen
from hpe_tasks.config.run import RunConfig
from hpe_tasks.records.watch import MadeOf, Trigger
from hpe_tasks.registry.build_provenance import BOXES
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.watching.inputs import TOOLS, settings_of

_DIGITS = 12
"""Of a digest, as it is shown."""

_TERMS = ("gate.", "evaluation.")
"""Settings that say how a model is judged."""


class Differences(Frozen):
    """What has changed, and what could not be compared, each in a sentence."""

    triggers: tuple[Trigger, ...]
    not_compared: tuple[str, ...] = ()


def differences(served: ModelManifest, now: MadeOf) -> Differences:
    """Compare a version with what a run would be made of now."""
    settings, untold = _settings(served, now)
    tools, unknown = _tools(served.provenance.tool_versions, now.tools)
    return Differences(
        triggers=(*_inputs(served, now), *settings, *tools),
        not_compared=(*untold, *unknown),
    )


def _inputs(served: ModelManifest, now: MadeOf) -> Iterator[Trigger]:
    was = served.provenance
    if was.checkpoint_sha256 != now.checkpoint_sha256:
        changed = _digests(was.checkpoint_sha256, now.checkpoint_sha256)
        yield Trigger(kind="checkpoint", reason=f"new checkpoint: SHA-256 {changed}")
    if was.dataset_digest != now.dataset_digest:
        changed = _digests(was.dataset_digest, now.dataset_digest)
        yield Trigger(kind="data", reason=f"new data to calibrate and measure on: digest {changed}")
    if served.build is None:
        return
    boxes = served.build.dependency(BOXES)
    before = None if boxes is None else boxes.digest["sha256"]
    if before != now.boxes_sha256:
        changed = _digests(before, now.boxes_sha256)
        yield Trigger(kind="data", reason=f"new detected boxes: SHA-256 {changed}")


def _digests(was: str | None, now: str | None) -> str:
    return " → ".join("none" if one is None else one[:_DIGITS] for one in (was, now))


def _settings(served: ModelManifest, now: MadeOf) -> tuple[list[Trigger], list[str]]:
    if served.build is None:
        return [], [f"settings: version {served.version} does not say what its run was asked"]
    asked = served.build.build_definition.external_parameters
    known = settings_of(asked)
    try:
        # A setting that came later had its default then.
        known = settings_of(RunConfig.model_validate(asked).model_dump(mode="json"))
        unknown = []
    except ValidationError:
        unknown = sorted(now.settings.keys() - known.keys())
    untold = [f"{key}: version {served.version} was made before it was a setting" for key in unknown]
    changed = [key for key in now.settings if key in known and known[key] != now.settings[key]]
    return [_setting(key, known[key], now.settings[key]) for key in changed], untold


def _setting(key: str, was: str, now: str) -> Trigger:
    kind = "terms" if key.startswith(_TERMS) else "recipe"
    return Trigger(kind=kind, reason=f"{key} {_plain(was)} → {_plain(now)}")


def _plain(value: str) -> str:
    found = json.loads(value)
    return found if isinstance(found, str) else value


def _tools(was: Mapping[str, str], now: Mapping[str, str]) -> tuple[list[Trigger], list[str]]:
    recorded = {name.replace("_", "-").lower(): version for name, version in was.items()}
    changed = [
        Trigger(kind="tools", reason=f"{name} {recorded[name]} → {version}")
        for name, version in now.items()
        if recorded.get(name, version) != version
    ]
    lost = [name for name in TOOLS if name in recorded and name not in now]
    return changed, [f"{name}: it is not installed here, and no lock names it" for name in lost]
