"""Checkpoints in the registry: one object for the same bytes, a lineage for each live version, weights first."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.errors import AccessError, DigestError
from hpe_tasks.records.retraining import CheckpointLineage, LineageFigure
from hpe_tasks.registry.checkpoints import CheckpointStore
from hpe_tasks.storage.s3 import S3Location
from support.played_s3 import client, moto_client

__all__ = ["client", "moto_client"]

CONTENT = b"weights " * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()
BEGIN = datetime(2026, 5, 1, tzinfo=UTC)


def lineage(**changes: Any) -> CheckpointLineage:
    described = {
        "sha256": DIGEST,
        "size_bytes": len(CONTENT),
        "model": {"architecture": "pose_mobilenet"},
        "dataset_source": "sample",
        "dataset_digest": "d" * 64,
        "training_split": "train",
        "stages": ({"epochs": 1},),
        "started_from": None,
        "live_version": "1" * 16,
        "parent_sha256": "e" * 64,
        "outcome": "worse",
        "reason": "worse",
        "figure": LineageFigure(metric="coco_oks_ap", persons=3, images=2, checkpoint=0.1, parent=0.2),
        "code": "c" * 64,
        "git_commit": None,
        "tool_versions": {"torch": "2"},
        "run": "one",
        "created_at": BEGIN,
        "created_by": "ada",
    }
    return CheckpointLineage.model_validate(described | changes)


@pytest.fixture
def store(client: Any) -> CheckpointStore:
    return CheckpointStore(client, S3Location("models", "team/registry"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(CONTENT)
    return file


def keys(client: Any) -> list[str]:
    return [entry["Key"] for entry in client.list_objects_v2(Bucket="models").get("Contents", ())]


def test_twice_is_the_same_as_once(client: Any, store: CheckpointStore, file: Path) -> None:
    first, created = store.add(file, lineage())
    again, repeated = store.add(file, lineage(run="two", created_at=BEGIN + timedelta(days=1), created_by="bob"))
    assert (created, repeated, again) == (True, False, first)
    assert keys(client) == [first.uri.removeprefix("s3://models/"), str(store.address(DIGEST)).partition("models/")[2]]
    stored = client.get_object(Bucket="models", Key=keys(client)[0])["Body"].read()
    assert hashlib.sha256(stored).hexdigest() == first.sha256
    assert CheckpointLineage.model_validate_json(stored) == lineage()


def test_beside_another_live_version_it_gets_a_further_lineage(client: Any, store: CheckpointStore, file: Path) -> None:
    store.add(file, lineage())
    store.add(file, lineage(live_version="2" * 16, outcome="better"))
    assert len(keys(client)) == 3


def test_a_lineage_is_never_that_of_another_file(client: Any, store: CheckpointStore, file: Path) -> None:
    file.write_bytes(CONTENT[::-1])
    with pytest.raises(DigestError):
        store.add(file, lineage())
    assert [key for key in keys(client) if "lineage" in key] == []


def test_a_damaged_checkpoint_is_replaced(client: Any, store: CheckpointStore, file: Path) -> None:
    where = store.address(DIGEST)
    client.put_object(Bucket="models", Key=where.key, Body=CONTENT[:-1])
    assert store.add(file, lineage())[1]
    assert client.get_object(Bucket="models", Key=where.key)["Body"].read() == CONTENT


def test_a_missing_bucket_is_told(moto_client: Any, file: Path) -> None:
    with pytest.raises(AccessError, match="bucket 'nowhere' does not exist"):
        CheckpointStore(moto_client, S3Location("nowhere", "")).add(file, lineage())
