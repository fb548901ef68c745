from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.errors import AccessError, BadInputError, ChannelConflictError, DigestError, HpeError, TransientError
from hpe_tasks.local.object_store import HOST, ObjectStore, Server
from hpe_tasks.records.release import PublishedModel
from hpe_tasks.registry.channel_keys import ChannelKeys
from hpe_tasks.registry.channels import ChannelPointer
from hpe_tasks.registry.operations import Operations
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.serving.channel_pointer import Channel, read_pointer
from hpe_tasks.storage.s3 import S3Location, make_client
from hpe_tasks.storage.s3_objects import put_on_condition
from support import sample_records as records
from support.signing_keys import key_pem

pytestmark = pytest.mark.integration


@pytest.fixture
def location(s3_bucket: Any) -> S3Location:
    return S3Location(s3_bucket.bucket, "registry")


@pytest.fixture
def registry(s3_bucket: Any, location: S3Location) -> ModelRegistry:
    return ModelRegistry(s3_bucket.client, location)


@pytest.fixture
def publish(tmp_path: Path) -> Callable[..., PublishedModel]:
    """Store a signed model whose content is named by a word, and let a channel serve it."""
    key = SigningKey(key_pem())

    def _publish(registry: ModelRegistry, content: str, channel: str = "staging", **changes: Any) -> PublishedModel:
        files = records.write_files(tmp_path / content, content)
        published = registry.store(records.manifest(files, **changes), files, key)
        registry.promote("pose", published.version, channel, published=published)
        return published

    return _publish


def test_publish_show_promote_rollback(registry: ModelRegistry, publish: Any, tmp_path: Path) -> None:
    first = publish(registry, "one")
    second = publish(registry, "two")
    assert (first.created, second.created) == (True, True)
    assert registry.show("pose", "staging").version == second.version
    assert [v.version for v in registry.versions("pose")] == [second.version, first.version]
    assert registry.promote("pose", first.version, "production").previous_version is None
    assert registry.show("pose", "production").history == ()
    assert [entry.version for entry in registry.show("pose", "staging").history] == [first.version]
    assert registry.rollback("pose", "staging").version == first.version
    assert {v.version: v.channels for v in registry.versions("pose")}[first.version] == ("production", "staging")
    manifest = registry.served("pose", "production")
    model = registry.download(manifest, "model", tmp_path / "served.onnx")
    assert model.read_bytes() == (tmp_path / "one" / "model.onnx").read_bytes()


def test_publishing_twice_writes_nothing(registry: ModelRegistry, s3_bucket: Any, publish: Any) -> None:
    publish(registry, "one")
    before = s3_bucket.client.list_object_versions(Bucket=s3_bucket.bucket)["Versions"]
    again = publish(registry, "one", run="run-2", created_by="grace")
    after = s3_bucket.client.list_object_versions(Bucket=s3_bucket.bucket)["Versions"]
    assert not again.created
    # The bucket is versioned: even an overwrite with the same bytes would show.
    assert [v["VersionId"] for v in after] == [v["VersionId"] for v in before]


def test_the_server_keeps_a_sha256_of_every_object(registry: ModelRegistry, s3_bucket: Any, publish: Any) -> None:
    publish(registry, "one")
    for entry in s3_bucket.client.list_objects_v2(Bucket=s3_bucket.bucket)["Contents"]:
        head = s3_bucket.client.head_object(Bucket=s3_bucket.bucket, Key=entry["Key"], ChecksumMode="ENABLED")
        assert head["ChecksumSHA256"], entry["Key"]


class Meeting:
    """A client that waits for the others before it first moves the channel."""

    def __init__(self, client: Any, barrier: threading.Barrier) -> None:
        self._client = client
        self._barrier: threading.Barrier | None = barrier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **arguments: Any) -> Any:
        if self._barrier is not None and arguments["Key"].endswith("staging.json"):
            barrier, self._barrier = self._barrier, None
            barrier.wait(timeout=60)
        return self._client.put_object(**arguments)


@pytest.mark.parametrize("publishers", [2, 8])
@pytest.mark.parametrize("existing", [False, True], ids=["new-channel", "moved-channel"])
def test_of_concurrent_publishers_of_different_models_one_wins(
    s3_bucket: Any, location: S3Location, registry: ModelRegistry, publish: Any, publishers: int, existing: bool
) -> None:
    if existing:
        publish(registry, "zero")
    # All have read the channel before anyone writes it.
    barrier = threading.Barrier(publishers)

    def attempt(number: int) -> PublishedModel | ChannelConflictError:
        rival = ModelRegistry(Meeting(s3_bucket.client, barrier), location)  # type: ignore[arg-type]
        try:
            return publish(rival, f"model-{number}", created_by=f"user-{number}")
        except ChannelConflictError as error:
            return error

    with ThreadPoolExecutor(publishers) as pool:
        outcomes = list(pool.map(attempt, range(publishers)))
    won = [o for o in outcomes if isinstance(o, PublishedModel)]
    lost = [o for o in outcomes if isinstance(o, ChannelConflictError)]
    assert (len(won), len(lost)) == (1, publishers - 1)
    pointer = registry.show("pose", "staging")
    assert pointer.version == won[0].version
    assert len(pointer.history) == int(existing)
    for error in lost:
        assert f"it now serves version {won[0].version} (publish by {pointer.moved_by}" in error.message
    # The losers' versions are complete.
    assert len(registry.versions("pose")) == publishers + int(existing)
    for version in registry.versions("pose"):
        registry.promote("pose", version.version, "check")


@pytest.mark.parametrize("meet", [True, False], ids=["all-at-once", "as-they-come"])
def test_each_of_concurrent_rollbacks_learns_what_it_did(
    s3_bucket: Any, location: S3Location, registry: ModelRegistry, publish: Any, meet: bool
) -> None:
    """As many steps back as there are callers who were told that they went back, each to a version of his own."""
    callers = 8
    published = [publish(registry, "first").version, publish(registry, "second").version]
    for number in range(callers):
        registry.promote("pose", published[number % 2], "staging")
    before = registry.show("pose", "staging")
    barrier = threading.Barrier(callers if meet else 1)

    def attempt(number: int) -> ChannelPointer | ChannelConflictError:
        rival = ModelRegistry(Meeting(s3_bucket.client, barrier), location, actor=f"user-{number}")  # type: ignore[arg-type]
        try:
            return rival.rollback("pose", "staging")
        except ChannelConflictError as error:
            return error

    with ThreadPoolExecutor(callers) as pool:
        outcomes = list(pool.map(attempt, range(callers)))
    went_back = [outcome for outcome in outcomes if isinstance(outcome, ChannelPointer)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, ChannelConflictError)]
    now = registry.show("pose", "staging")
    assert len(went_back) + len(refused) == callers
    assert len(before.history) - len(now.history) == len(went_back) >= 1
    assert len(went_back) == 1 or not meet
    # In the order in which they went back: each to the version before, under the name of its caller.
    went_back.sort(key=lambda pointer: len(pointer.history), reverse=True)
    assert [pointer.entry for pointer in went_back] == list(before.history[: len(went_back)])
    assert went_back[-1] == now
    assert {f"user-{number}" for number, one in enumerate(outcomes) if one in went_back} == {
        pointer.moved_by for pointer in went_back
    }
    for error in refused:
        assert "(rollback by user-" in error.message
        assert "moved nothing" in error.hint


def test_concurrent_publishers_of_the_same_model_all_succeed(registry: ModelRegistry, tmp_path: Path) -> None:
    files = records.write_files(tmp_path / "files")
    key = SigningKey(key_pem())

    def attempt(number: int) -> PublishedModel:
        published = registry.store(records.manifest(files, run=f"run-{number}"), files, key)
        registry.promote("pose", published.version, "staging", published=published)
        return published

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(attempt, range(6)))
    assert len({o.version for o in outcomes}) == 1
    assert len({o.manifest.sha256 for o in outcomes}) == 1
    assert sum(o.created for o in outcomes) == 1
    assert len(registry.versions("pose")) == 1
    stored = registry.stored("pose", outcomes[0].version)
    assert key.signed(stored.data, registry.signature("pose", outcomes[0].version) or b"")


class CrashError(BaseException):
    """The process dies here: nothing may catch it."""


class Dying:
    """A client that dies at its k-th call: before it reaches the server, or before its answer comes back."""

    def __init__(self, client: Any, call: int, *, done: bool) -> None:
        self._client, self._left, self._done = client, call, done
        self.survived = True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            self._left -= 1
            if self._left > 0:
                return method(*arguments, **keywords)
            self.survived = False
            if self._done:
                method(*arguments, **keywords)
            raise CrashError

        return call


@pytest.mark.parametrize("done", [False, True], ids=["before-the-call", "after-the-call"])
def test_a_crash_at_any_call_leaves_the_served_model_whole(
    s3_bucket: Any, location: S3Location, publish: Any, tmp_path: Path, done: bool
) -> None:
    calls, swap = 0, 16
    for call in range(1, 100):
        registry = ModelRegistry(s3_bucket.client, location / f"{done}-{call}".lower())
        old = publish(registry, "old")
        dying = Dying(s3_bucket.client, call, done=done)
        try:
            publish(ModelRegistry(dying, location / f"{done}-{call}".lower()), "new")  # type: ignore[arg-type]
        except CrashError:
            calls += 1
        served = registry.served("pose", "staging")
        registry.download(served, "model", tmp_path / "served.onnx")
        new = publish(registry, "new")
        assert registry.signature("pose", new.version) is not None
        assert registry.show("pose", "staging").version == new.version
        if dying.survived:
            break
        # After the swap the new version is served, and whole.
        assert served.version in {old.version, new.version}
        if served.version == new.version:
            assert call > swap or (call == swap and done)
        # Of each move there is one record, also where its mover has not come to it.
        assert [entry.version for entry in registry.log.entries("pose")] == [old.version, new.version]
        assert [entry.version for entry in registry.show("pose", "staging").history] == [old.version]
    # Manifest, two blobs (look, upload, look; the encodings are there), manifest (create, read), signature (look,
    # write); then pointer, manifest, two blobs (look), signature (look, for who is to be warned), log (what is retired
    # or pinned), pointer; and its record.
    assert calls == swap + 1


def test_whoever_pins_needs_no_key_and_shuts_out_who_has_looked_before(
    registry: ModelRegistry, s3_bucket: Any, location: S3Location, tmp_path: Path
) -> None:
    """The pointer stays as it is signed, and functions follow it; who has read it before swaps it no more."""
    key, versions = SigningKey(key_pem()), []
    for content in ("one", "two"):
        files = records.write_files(tmp_path / content, content)
        versions.append(registry.store(records.manifest(files), files, key).version)
    registry.promote("pose", versions[0], "staging", keys=ChannelKeys(key))
    before = registry.state("pose", "staging")
    Operations(s3_bucket.client, location, actor="grace").pin("pose", "staging")
    after = registry.state("pose", "staging")
    assert (after.pointer, after.etag == before.etag) == (before.pointer, False)
    followed = read_pointer(after.data, Channel(str(location), "pose", "staging"), (key.public_bytes,))
    assert followed.version == versions[0]
    where = location / "models/pose/channels/staging.json"
    refused = put_on_condition(s3_bucket.client, where, before.data, "moving the channel", etag=before.etag)
    assert refused == "refused"
    with pytest.raises(BadInputError, match="is pinned"):
        registry.promote("pose", versions[1], "staging", keys=ChannelKeys(key))


def test_a_blob_damaged_on_disk_is_noticed(object_store_python: Path, tmp_path: Path, publish: Any) -> None:
    store = ObjectStore(tmp_path / "store", object_store_python)
    with store as server:
        registry = ModelRegistry(server.client(), S3Location(server.bucket, "registry"))
        publish(registry, "one")
        manifest = registry.served("pose", "staging")
    blob = manifest.file("model").sha256
    (stored,) = (path for path in (tmp_path / "store" / "s3").rglob(blob) if ".versions" not in path.parts)
    stored.write_bytes(bytes(stored.stat().st_size))
    with store:
        with pytest.raises(DigestError, match="is corrupt"):
            registry.download(manifest, "model", tmp_path / "served.onnx")
        assert not (tmp_path / "served.onnx").exists()


def test_the_registry_survives_a_killed_server(object_store_python: Path, tmp_path: Path, publish: Any) -> None:
    store = ObjectStore(tmp_path / "store", object_store_python)
    try:
        server = store.start()
        registry = ModelRegistry(server.client(), S3Location(server.bucket, "registry"))
        first, second = publish(registry, "one"), publish(registry, "two")
        os.kill(server.pid, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while store.status() is not None:
            assert time.monotonic() < deadline, "a killed server still answers"
            time.sleep(0.05)
        store.start()
        assert registry.show("pose", "staging").version == second.version
        assert not publish(registry, "two").created
        assert registry.rollback("pose", "staging").version == first.version
        registry.download(registry.served("pose", "staging"), "model", tmp_path / "served.onnx")
    finally:
        store.stop()


def settings(server: Server, **changes: str) -> dict[str, str]:
    return server.client_settings | changes


@pytest.mark.parametrize(
    ("changes", "bucket", "error", "message"),
    [
        pytest.param({}, "no-such-bucket", AccessError, "bucket 'no-such-bucket' does not exist", id="bucket"),
        pytest.param({"aws_access_key_id": "stranger"}, None, AccessError, "Access was denied", id="unauthorized"),
        pytest.param(
            # Port 9 (discard) is served nowhere.
            {"endpoint_url": f"http://{HOST}:9"}, None, TransientError, "could not be reached", id="unreachable"
        ),
    ],
)  # fmt: skip
def test_a_registry_that_cannot_be_used_says_why(
    s3_bucket: Any, publish: Any, changes: dict[str, str], bucket: str | None, error: type[HpeError], message: str
) -> None:
    client = make_client(**settings(s3_bucket.server, **changes))
    registry = ModelRegistry(client, S3Location(bucket or s3_bucket.bucket, "registry"))
    for call in (
        lambda: publish(registry, "one"),
        lambda: registry.show("pose", "staging"),
        lambda: registry.versions("pose"),
    ):
        with pytest.raises(error, match=message) as caught:
            call()
        assert caught.value.hint
    assert "Contents" not in s3_bucket.client.list_objects_v2(Bucket=s3_bucket.bucket)
