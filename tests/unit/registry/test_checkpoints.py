"""Checkpoints in the registry: one object for the same bytes, a lineage for each live version, weights first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.errors import AccessError, DigestError
from hpe_tasks.local.memory_bucket import MemoryBucket
from hpe_tasks.records.retraining import CheckpointLineage, LineageFigure
from hpe_tasks.registry.checkpoints import CheckpointStore
from hpe_tasks.storage.s3 import S3Location
from support.interleaving import Client, deaths, meetings
from support.played_s3 import client, moto_client
from support.registry_bench import PIN, PROMOTE, PUBLISH, RETIRE, ROLLBACK, UNPIN, UNRETIRE, Bench, Call

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


class Two:
    """Two clients who register the same weights, each with a lineage of its own."""

    def __init__(self, file: Path, lineages: tuple[CheckpointLineage, CheckpointLineage], there: bytes | None) -> None:
        self.bucket = MemoryBucket("models")
        self.root = S3Location("models", "r")
        self.clients = Client(self.bucket), Client(self.bucket)
        self.file, self.lineages = file, lineages
        self.stores = tuple(CheckpointStore(client.s3, self.root) for client in self.clients)
        self.there = there

    def begin(self) -> tuple[Callable[[], Any], Callable[[], Any]]:
        self.bucket._objects = {}
        if self.there is not None:
            where = self.stores[0].address(DIGEST)
            self.clients[0].heir().s3.put_object(Bucket="models", Key=where.key, Body=self.there)
        one, other = zip(self.stores, self.lineages, strict=True)
        return lambda: one[0].add(self.file, one[1]), lambda: other[0].add(self.file, other[1])

    def check(self) -> None:
        """A lineage is of weights that are there, and whole."""
        objects = {key: stored.data for key, stored in self.bucket._objects.items()}
        weights = objects.pop("r/checkpoints/sha256/" + DIGEST + ".safetensors", None)
        assert weights in (None, self.there, CONTENT)
        assert not objects or weights == CONTENT
        for data in objects.values():
            assert CheckpointLineage.model_validate_json(data) in self.lineages


@pytest.mark.parametrize(
    "there",
    [
        pytest.param(None, id="new"),
        pytest.param(CONTENT[:-1], id="damaged", marks=pytest.mark.long),
        pytest.param(CONTENT, id="known"),
    ],
)
@pytest.mark.parametrize("same", [True, False], ids=["same-lineage", "other-live-version"])
def test_two_who_register_one_checkpoint_do_so_one_after_the_other(file: Path, there: bytes | None, same: bool) -> None:
    second = lineage(run="two", created_by="bob", live_version=("1" if same else "2") * 16)
    two = Two(file, (lineage(), second), there)
    orders = 0
    for meeting in meetings(*two.clients, two.begin):
        two.check()
        if not meeting.ended:
            continue
        orders += 1
        (one, one_new), (other, other_new) = (client.outcome for client in two.clients)
        # Who mends what is damaged has stored it; of something that is not there yet, exactly one has.
        assert one_new + other_new == (0 if there == CONTENT else 1) or (
            there == CONTENT[:-1] and one_new and other_new
        )
        assert (one == other) == same
        assert len(two.bucket._objects) == (2 if same else 3)
    assert orders >= 9


def test_who_dies_while_registering_keeps_nobody_from_it(file: Path) -> None:
    two = Two(file, (lineage(), lineage(run="two", created_by="bob")), None)
    for meeting in deaths(*two.clients, two.begin):
        two.check()
        if meeting.ended:
            stored, _ = two.clients[1].outcome
            heir = CheckpointStore(two.clients[0].heir().s3, two.root)
            again, created = heir.add(file, lineage())
            assert (again, created) == (stored, False)


def test_registering_a_checkpoint_and_moving_channels_share_no_object(bench: Bench, file: Path) -> None:
    """So in whatever order their requests come, each does what it does alone."""
    client = Client(bench.bucket, shared=set())
    bench.objects = bench.with_channel
    CheckpointStore(client.s3, S3Location("registry", "r")).add(file, lineage())
    registering, client.asked = set(client.asked), []
    acts = (Call(PIN), Call(UNPIN), Call(RETIRE, "third"), Call(UNRETIRE, "third"))
    for call in (Call(PUBLISH, "new"), Call(PROMOTE, "first"), Call(ROLLBACK), *acts):
        bench.asked(client, call, "ada")()
    assert registering
    assert registering.isdisjoint(client.asked)
    # A listing sees the others' objects where it asks for all of them.
    assert not any(key.startswith("r/models/") for key in registering)
