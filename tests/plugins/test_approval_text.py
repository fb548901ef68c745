"""What a person is asked: the gate's table, and the version beside the one that the channel serves now."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from hpe_airflow import approval, approval_text
from hpe_airflow.approval_text import question

from hpe_tasks.config.run import DestinationConfig
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.records.release import PublishedModel, ServedBefore
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from support import run_cases
from support import sample_records as records
from support.catalogued import leave
from support.played_s3 import client, moto_client

__all__ = ["client", "moto_client"]

LOCATION = S3Location("models", "registry")


@pytest.fixture
def registry(client: Any) -> ModelRegistry:
    return ModelRegistry(client, LOCATION, actor="ada")


@pytest.fixture
def stored(registry: ModelRegistry, tmp_path: Path) -> Callable[..., PublishedModel]:
    """A version of these figures in the registry."""

    def store(word: str, **described: Any) -> PublishedModel:
        files = records.write_files(tmp_path / word, word)
        made = records.manifest(files, **described)
        return registry.store(made, files)

    return store


@pytest.fixture
def run(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[PublishedModel], Run]:
    """A run that has published a version."""

    # What these steps have left was not made of what the steps before them left: there are none.
    monkeypatch.setattr(approval_text, "records_of", partial(records_of, looking_back=True))

    def published_by(published: PublishedModel) -> Run:
        config = records.run_config(
            destination=DestinationConfig(registry=str(LOCATION), name=published.name, channel="staging")
        )
        made = open_run(
            config, workspace=(tmp_path / "w").as_uri(), cache=tmp_path / "cache", name="friday", s3=lambda: client
        )
        decision = run_cases.judged(run_cases.complete()).decision
        for step, record in ((steps.gate, decision), (steps.publish, published)):
            leave(made, step, record)
        return made

    return published_by


def test_the_version_stands_beside_the_one_that_is_served_now(registry: ModelRegistry, stored: Any, run: Any) -> None:
    name = stored("old", ap=0.6).name
    old = registry.versions(name)[0].version
    registry.promote(name, old, "staging")
    new = stored("new", ap=0.625, speed=records.latency(), created_by="grace | hopper")
    asked = run(new)
    subject, body = question(asked, new)
    assert subject == f"May staging serve {name} {new.version}?"
    assert "| Check | Observed | Limit | Margin | Result |" in body
    assert body.count("| passed |") == len(asked.recorded(steps.gate).checks)
    assert f"### Beside {old}, which staging serves now" in body
    assert f"|  | {new.version} | {old} |" in body
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in body.splitlines() if line.startswith("| ")}
    assert rows["AP, int8 file"] == "| AP, int8 file | 0.625 | 0.600 |"
    assert rows["Lost by quantization"] == "| Lost by quantization | 0.010 | 0.010 |"
    assert rows["Speed"].endswith(" | – |"), "the served one was published without a measured speed"
    assert "grace \\| hopper" in rows["Published"]
    assert f"/hpe/compare?version={name}%40{new.version}&version={name}%40{old}" in body


def test_nothing_is_beside_a_version_of_a_new_channel_or_the_served_one(
    registry: ModelRegistry, stored: Any, run: Any
) -> None:
    published = stored("one")
    assert "Nothing: the channel is new." in question(run(published), published)[1]
    registry.promote(published.name, published.version, "staging")
    assert "The same version." in question(run(published), published)[1]


def test_a_channel_that_is_pinned_asks_nobody(
    registry: ModelRegistry, stored: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the answer, the channel would stay."""
    before = ServedBefore(channel="staging", version="0" * 16, pinned="by ada")
    published = stored("one").model_copy(update={"before": before})
    monkeypatch.setenv("HPE_APPROVE_CHANNELS", "staging")
    monkeypatch.setattr(approval, "_published", lambda run: run.recorded(steps.publish))
    monkeypatch.setattr(approval, "open_run_from_context", lambda context: run(published))
    monkeypatch.setattr(approval, "is_supervised", lambda: True)
    with pytest.raises(AirflowSkipException, match="is pinned to version 0000"):
        approval.channel_approval().ask().execute({})
