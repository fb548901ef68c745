from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.errors import (
    AccessError,
    BadInputError,
    ChannelConflictError,
    ConfigError,
    DigestError,
    NotApprovedError,
    StorageError,
    TransientError,
)
from hpe_tasks.records.release import PublishedModel
from hpe_tasks.registry.channel_keys import ChannelKeys
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.storage.s3 import S3Location, make_client
from support import sample_records as records
from support.played_s3 import client, moto_client
from support.signing_keys import key_pem

__all__ = ["client", "moto_client"]

LOCATION = S3Location("models", "team/registry")
POINTER = "team/registry/models/pose/channels/staging.json"


@pytest.fixture
def registry(client: Any) -> ModelRegistry:
    return ModelRegistry(client, LOCATION)


class Version:
    """A manifest and its files."""

    def __init__(self, folder: Path, content: str, **changes: Any) -> None:
        self.files: dict[str, Path] = records.write_files(folder / content, content)
        self.manifest: ModelManifest = records.manifest(self.files, **changes)


@pytest.fixture
def one(tmp_path: Path) -> Version:
    return Version(tmp_path, "one")


@pytest.fixture
def two(tmp_path: Path) -> Version:
    return Version(tmp_path, "two")


@pytest.fixture
def three(tmp_path: Path) -> Version:
    return Version(tmp_path, "three")


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(key_pem())


@pytest.fixture(scope="module")
def other_key() -> SigningKey:
    return SigningKey(key_pem())


def publish(registry: ModelRegistry, version: Version, channel: str = "staging") -> PublishedModel:
    """Store a version and let a channel serve it, as the pipeline does."""
    published = registry.store(version.manifest, version.files)
    registry.promote("pose", published.version, channel, published=published)
    return published


def keys(client: Any) -> dict[str, str]:
    """Every object of the bucket, with its ETag."""
    found = client.list_objects_v2(Bucket="models").get("Contents", ())
    return {entry["Key"]: entry["ETag"] for entry in found}


class Recorder:
    """A client that notes what is written."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.written: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **arguments: Any) -> Any:
        self.written.append(arguments["Key"])
        return self._client.put_object(**arguments)


def test_the_layout_is_the_documented_one_and_written_in_order(client: Any, one: Version, key: SigningKey) -> None:
    recorder = Recorder(client)
    registry = ModelRegistry(recorder, LOCATION)  # type: ignore[arg-type]
    manifest = one.manifest
    published = registry.store(manifest, one.files, key)
    stored = list(recorder.written)
    promoted = registry.promote("pose", published.version, "staging", published=published)
    *written, logged = recorder.written
    assert written == [
        *(f"team/registry/blobs/sha256/{file.sha256}" for file in manifest.files),
        f"team/registry/models/pose/versions/{manifest.version}/manifest.json",
        f"team/registry/models/pose/versions/{manifest.version}/manifest.json.sig",
        POINTER,
    ]
    assert re.fullmatch(
        rf"team/registry/models/pose/log/[0-9TZ.]+_publish_staging_{manifest.version}_\w+\.json", logged
    )
    assert stored == written[:-1]
    assert set(keys(client)) == set(recorder.written)
    pointer = json.loads(client.get_object(Bucket="models", Key=POINTER)["Body"].read())
    assert pointer["version"] == manifest.version == published.version
    assert pointer["manifest_sha256"] == published.manifest.sha256
    assert pointer["moved_by"] == "ada"
    assert published.manifest.uri == f"s3://models/team/registry/models/pose/versions/{manifest.version}/manifest.json"
    assert (published.created, published.signed_by) == (True, key.public_sha256)
    assert (promoted.channel, promoted.version, promoted.previous_version) == ("staging", published.version, None)


def test_publishing_twice_changes_nothing(client: Any, one: Version, key: SigningKey) -> None:
    first = ModelRegistry(client, LOCATION)
    first.promote("pose", first.store(one.manifest, one.files, key).version, "staging")
    before = keys(client)
    again = records.manifest(one.files, run="run-2", created_by="grace", ap=0.61)
    recorder = Recorder(client)
    second = ModelRegistry(recorder, LOCATION)  # type: ignore[arg-type]
    published = second.store(again, one.files, key)
    promoted = second.promote("pose", published.version, "staging", published=published)
    assert recorder.written == []
    assert keys(client) == before
    assert (published.created, promoted.previous_version) == (False, one.manifest.version)
    # The evidence of the first publication stays.
    assert ModelRegistry(client, LOCATION).served("pose", "staging") == one.manifest


def test_a_second_channel_shares_the_version(client: Any, registry: ModelRegistry, one: Version) -> None:
    publish(registry, one)
    recorder = Recorder(client)
    published = publish(ModelRegistry(recorder, LOCATION), one, "production")  # type: ignore[arg-type]
    assert recorder.written[0] == "team/registry/models/pose/channels/production.json"
    assert ["/log/" in key for key in recorder.written] == [False, True]
    assert not published.created
    assert registry.channels("pose") == ("production", "staging")


def test_what_is_read_back_is_what_was_published(registry: ModelRegistry, one: Version, tmp_path: Path) -> None:
    publish(registry, one)
    manifest = registry.served("pose", "staging")
    assert manifest == one.manifest
    model = registry.download(manifest, "model", tmp_path / "served" / "model.onnx")
    assert model.read_bytes() == one.files["model"].read_bytes()
    assert [path.name for path in model.parent.iterdir()] == ["model.onnx"]


def test_versions_are_listed_with_their_channels(registry: ModelRegistry, one: Version, two: Version) -> None:
    publish(registry, one)
    publish(registry, two)
    publish(registry, one, "production")
    listed = {v.version: v.channels for v in registry.versions("pose")}
    assert listed == {two.manifest.version: ("staging",), one.manifest.version: ("production",)}
    assert registry.versions("another") == ()


def test_promote_and_rollback_walk_through_the_history(
    registry: ModelRegistry, one: Version, two: Version, three: Version
) -> None:
    for version in (one, two, three):
        publish(registry, version)
    v1, v2, v3 = (v.manifest.version for v in (one, two, three))
    assert [entry.version for entry in registry.show("pose", "staging").history] == [v2, v1]
    back = registry.rollback("pose", "staging")
    assert (back.version, back.reason) == (v2, "rollback")
    assert registry.rollback("pose", "staging").version == v1
    with pytest.raises(BadInputError, match="served nothing before"):
        registry.rollback("pose", "staging")
    actor = ModelRegistry(registry._client, LOCATION, actor="grace")
    assert actor.promote("pose", v3, "staging").previous_version == v1
    pointer = registry.show("pose", "staging")
    assert (pointer.version, pointer.reason, pointer.moved_by) == (v3, "promote", "grace")
    assert registry.rollback("pose", "staging").version == v1
    assert registry.promote("pose", v2, "production").previous_version is None
    pointer = registry.show("pose", "production")
    assert pointer.history == ()
    # Promoting what is served already changes nothing.
    assert registry.promote("pose", v2, "production").previous_version == v2
    assert registry.show("pose", "production") == pointer


def test_the_history_is_bounded(registry: ModelRegistry, one: Version, two: Version) -> None:
    publish(registry, one)
    publish(registry, two)
    for _ in range(13):
        for version in (one, two):
            registry.promote("pose", version.manifest.version, "staging")
    assert len(registry.show("pose", "staging").history) == 20


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        pytest.param(lambda r: r.show("pose", "nope"), AccessError, "has no channel 'nope'.*staging", id="channel"),
        pytest.param(lambda r: r.served("other", "staging"), AccessError, "Its channels: none", id="model"),
        pytest.param(lambda r: r.rollback("pose", "nope"), AccessError, "has no channel 'nope'", id="rollback"),
        pytest.param(lambda r: r.promote("pose", "0" * 16, "x"), AccessError, "has no version '0000", id="version"),
        pytest.param(lambda r: r.promote("pose", "latest", "x"), ConfigError, "'latest' is not a version", id="words"),
        pytest.param(lambda r: r.show("../pose", "staging"), ConfigError, "is not a model name", id="traversal"),
        pytest.param(lambda r: r.show("pose", "a/b"), ConfigError, "is not a channel", id="slash"),
        pytest.param(lambda r: r.stored("pose", "1" * 16), AccessError, "has no version", id="manifest"),
    ],
)
def test_what_is_not_there_is_named(
    registry: ModelRegistry, one: Version, call: Any, error: type[Exception], message: str
) -> None:
    publish(registry, one)
    with pytest.raises(error, match=message):
        call(registry)


def test_a_model_that_failed_its_gate_is_not_published(client: Any, registry: ModelRegistry, tmp_path: Path) -> None:
    bad = Version(tmp_path, "bad", limits=GateLimits(min_ap=0.9))
    with pytest.raises(NotApprovedError, match=r"ONNX AP 0\.600 is below 0\.900"):
        publish(registry, bad)
    assert keys(client) == {}


@pytest.mark.parametrize("role", ["model", "encodings"])
def test_a_file_that_is_not_the_measured_one_is_not_published(
    client: Any, registry: ModelRegistry, one: Version, role: str
) -> None:
    with one.files[role].open("ab") as file:
        file.write(b"!")
    with pytest.raises(DigestError, match=f"The {role} file .* the manifest says"):
        publish(registry, one)
    assert keys(client) == {}


def test_files_and_manifest_must_name_the_same_roles(registry: ModelRegistry, one: Version) -> None:
    with pytest.raises(BadInputError, match=r"\['encodings', 'model'\], but \['model'\]"):
        registry.store(one.manifest, {"model": one.files["model"]})
    one.files["encodings"].unlink()
    with pytest.raises(BadInputError, match=r"encodings file .* does not exist"):
        publish(registry, one)


def damage(client: Any, key: str, data: bytes = b"damaged") -> None:
    client.put_object(Bucket="models", Key=f"team/registry/{key}", Body=data)


def test_a_damaged_blob_is_noticed_and_mended_by_publishing(
    client: Any, registry: ModelRegistry, one: Version, two: Version, tmp_path: Path
) -> None:
    publish(registry, one)
    model = one.manifest.file("model")
    # Of the right size, and without a SHA-256 that the server knows: it must be read to be known.
    damage(client, model.blob, bytes(model.size_bytes))
    with pytest.raises(DigestError, match=f"{model.blob} is corrupt"):
        registry.download(one.manifest, "model", tmp_path / "served" / "model.onnx")
    assert list((tmp_path / "served").iterdir()) == []
    publish(registry, two)
    with pytest.raises(DigestError, match="is damaged or missing: it is the model"):
        registry.rollback("pose", "staging")
    assert registry.show("pose", "staging").version == two.manifest.version
    publish(registry, one)
    registry.download(one.manifest, "model", tmp_path / "served" / "model.onnx")


@pytest.mark.parametrize("data", [b"", b"{}", b"not json", b'{"schema_version": 1, "name": "pose"}'])
def test_a_damaged_manifest_is_noticed(client: Any, registry: ModelRegistry, one: Version, data: bytes) -> None:
    publish(registry, one)
    damage(client, f"models/pose/versions/{one.manifest.version}/manifest.json", data)
    for call in (
        lambda: registry.served("pose", "staging"),
        lambda: registry.promote("pose", one.manifest.version, "production"),
        lambda: publish(registry, one),
    ):
        with pytest.raises(DigestError, match=r"manifest\.json is corrupt"):
            call()


def test_an_edited_manifest_differs_from_its_pointer(client: Any, registry: ModelRegistry, one: Version) -> None:
    published = publish(registry, one)
    # Valid in itself: only the digest in the pointer tells.
    edited = one.manifest.model_copy(update={"opset": 13})
    damage(client, f"models/pose/versions/{one.manifest.version}/manifest.json", edited.to_bytes())
    with pytest.raises(DigestError, match=f"its SHA-256 is .*, not {published.manifest.sha256}"):
        registry.served("pose", "staging")
    with pytest.raises(DigestError, match=f"its SHA-256 is .*, not {published.manifest.sha256}"):
        registry.promote("pose", published.version, "production", published=published)
    with pytest.raises(DigestError, match="not the one that the channel points to"):
        publish(registry, one)


def test_a_manifest_under_another_version_is_noticed(
    client: Any, registry: ModelRegistry, one: Version, two: Version
) -> None:
    publish(registry, one)
    damage(client, f"models/pose/versions/{two.manifest.version}/manifest.json", one.manifest.to_bytes())
    with pytest.raises(DigestError, match="it describes 'pose'"):
        registry.stored("pose", two.manifest.version)


def test_a_lost_manifest_is_mended_by_publishing(client: Any, registry: ModelRegistry, one: Version) -> None:
    publish(registry, one)
    client.delete_object(
        Bucket="models", Key=f"team/registry/models/pose/versions/{one.manifest.version}/manifest.json"
    )
    with pytest.raises(AccessError, match="has no version"):
        registry.served("pose", "staging")
    again = records.manifest(one.files, run="run-2")
    published = registry.store(again, one.files)
    assert published.created
    # Whoever promotes by hand has not seen that it is the same model; the publication has.
    with pytest.raises(DigestError, match="not the one that the channel points to"):
        registry.promote("pose", published.version, "staging")
    registry.promote("pose", published.version, "staging", published=published)
    assert registry.served("pose", "staging") == again
    assert registry.show("pose", "staging").history == ()


def test_a_damaged_pointer_is_noticed(client: Any, registry: ModelRegistry, one: Version) -> None:
    publish(registry, one)
    damage(client, "models/pose/channels/staging.json", b'{"version": "latest"}')
    with pytest.raises(DigestError, match=r"pointer s3://models/team/registry/models/pose/channels/staging\.json"):
        registry.show("pose", "staging")


class Interfering(Recorder):
    """A client during whose first write of a key somebody else acts."""

    def __init__(self, client: Any, meanwhile: Any, key: str = POINTER) -> None:
        super().__init__(client)
        self._meanwhile, self._key = meanwhile, key

    def put_object(self, **arguments: Any) -> Any:
        if arguments["Key"] == self._key and self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return super().put_object(**arguments)


def test_the_slower_publisher_is_told_who_won(client: Any, registry: ModelRegistry, one: Version, two: Version) -> None:
    slow = ModelRegistry(Interfering(client, lambda: publish(registry, two)), LOCATION)  # type: ignore[arg-type]
    with pytest.raises(ChannelConflictError) as caught:
        publish(slow, one)
    assert f"it now serves version {two.manifest.version} (publish by ada at " in caught.value.message
    assert f"while version {one.manifest.version} was on its way: it was not there" in caught.value.message
    assert "promote it" in caught.value.hint
    assert registry.show("pose", "staging").version == two.manifest.version
    # The loser's version is complete: promoting it is the way out.
    assert registry.promote("pose", one.manifest.version, "staging").version == one.manifest.version


def test_a_channel_deleted_meanwhile_is_a_conflict(
    client: Any, registry: ModelRegistry, one: Version, two: Version
) -> None:
    publish(registry, one)
    slow = Interfering(client, lambda: client.delete_object(Bucket="models", Key=POINTER))
    with pytest.raises(ChannelConflictError, match="it has been deleted"):
        publish(ModelRegistry(slow, LOCATION), two)  # type: ignore[arg-type]


def test_a_rollback_that_is_overtaken_is_a_conflict(
    client: Any, registry: ModelRegistry, one: Version, two: Version, three: Version
) -> None:
    publish(registry, one)
    publish(registry, two)
    slow = ModelRegistry(Interfering(client, lambda: publish(registry, three)), LOCATION)  # type: ignore[arg-type]
    with pytest.raises(ChannelConflictError, match=three.manifest.version):
        slow.rollback("pose", "staging")


def test_of_two_rollbacks_one_went_back(
    client: Any, registry: ModelRegistry, one: Version, two: Version, three: Version
) -> None:
    for version in (one, two, three):
        publish(registry, version)
    grace = ModelRegistry(client, LOCATION, actor="grace")
    slow = ModelRegistry(Interfering(client, lambda: grace.rollback("pose", "staging")), LOCATION)  # type: ignore[arg-type]
    with pytest.raises(ChannelConflictError) as caught:
        slow.rollback("pose", "staging")
    assert f"it now serves version {two.manifest.version} (rollback by grace at " in caught.value.message
    assert "moved nothing" in caught.value.hint
    assert "hpe channel show pose --channel staging" in caught.value.hint
    # One step, by the one who was told so.
    assert registry.show("pose", "staging").version == two.manifest.version


def test_two_publishers_of_the_same_version_agree(client: Any, registry: ModelRegistry, one: Version) -> None:
    slow = ModelRegistry(Interfering(client, lambda: publish(registry, one)), LOCATION)  # type: ignore[arg-type]
    assert publish(slow, one).version == registry.show("pose", "staging").version


def test_storing_moves_no_channel(client: Any, registry: ModelRegistry, one: Version, two: Version) -> None:
    publish(registry, one)
    pointer = keys(client)[POINTER]
    registry.store(two.manifest, two.files)
    assert keys(client)[POINTER] == pointer
    listed = {v.version: v.channels for v in registry.versions("pose")}
    assert listed == {one.manifest.version: ("staging",), two.manifest.version: ()}


def test_a_version_is_signed_when_it_is_published_again(
    client: Any, registry: ModelRegistry, one: Version, key: SigningKey
) -> None:
    assert registry.store(one.manifest, one.files).signed_by is None
    assert registry.signature("pose", one.manifest.version) is None
    again = records.manifest(one.files, run="run-2")
    published = registry.store(again, one.files, key)
    assert (published.created, published.signed_by) == (False, key.public_sha256)
    signature = registry.signature("pose", one.manifest.version)
    # Of what is stored, which is not what was built this time.
    assert key.signed(one.manifest.to_bytes(), signature or b"")
    assert registry.stored("pose", one.manifest.version).data == one.manifest.to_bytes()
    # Publishing without a key does not take it away.
    assert registry.store(again, one.files).signed_by is None
    assert registry.signature("pose", one.manifest.version) == signature


@pytest.mark.parametrize("found", ["damaged", "of another key"])
def test_a_signature_that_is_not_of_this_key_is_replaced(
    client: Any, registry: ModelRegistry, one: Version, key: SigningKey, other_key: SigningKey, found: str
) -> None:
    registry.store(one.manifest, one.files, other_key)
    if found == "damaged":
        damage(client, f"models/pose/versions/{one.manifest.version}/manifest.json.sig")
    registry.store(one.manifest, one.files, key)
    assert key.signed(one.manifest.to_bytes(), registry.signature("pose", one.manifest.version) or b"")


def test_publishers_who_meet_sign_what_is_stored(
    client: Any, registry: ModelRegistry, one: Version, key: SigningKey
) -> None:
    rival = records.manifest(one.files, run="run-2")
    name = f"team/registry/models/pose/versions/{rival.version}/manifest.json"
    slow = Interfering(client, lambda: registry.store(one.manifest, one.files), key=name)
    published = ModelRegistry(slow, LOCATION).store(rival, one.files, key)  # type: ignore[arg-type]
    assert not published.created
    assert key.signed(one.manifest.to_bytes(), registry.signature("pose", rival.version) or b"")


class Answering(Recorder):
    """A client whose writes of one key answer with an error code, after doing the write or without."""

    def __init__(
        self,
        client: Any,
        suffix: str,
        code: str,
        *,
        times: int,
        after: bool = False,
        then: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(client)
        self._suffix, self._code, self._left, self._after, self._then = suffix, code, times, after, then

    def put_object(self, **arguments: Any) -> Any:
        if arguments["Key"].endswith(self._suffix) and self._left:
            self._left -= 1
            if self._after:
                super().put_object(**arguments)
            if self._then is not None:
                self._then()
            status = {"NotImplemented": 501, "InternalError": 500}.get(self._code, 409)
            response = {"Error": {"Code": self._code}, "ResponseMetadata": {"HTTPStatusCode": status}}
            raise ClientError(response, "PutObject")  # type: ignore[arg-type]
        return super().put_object(**arguments)


@pytest.mark.parametrize("suffix", ["manifest.json", "staging.json"])
def test_an_undecided_conditional_write_is_tried_again(client: Any, one: Version, suffix: str) -> None:
    answering = Answering(client, suffix, "ConditionalRequestConflict", times=1)
    assert publish(ModelRegistry(answering, LOCATION), one).created  # type: ignore[arg-type]


def test_a_write_whose_answer_was_lost_counts(client: Any, one: Version) -> None:
    # boto3 sends it again by itself, and the server then finds the condition broken: by our own first write.
    answering = Answering(client, "staging.json", "PreconditionFailed", times=1, after=True)
    assert publish(ModelRegistry(answering, LOCATION), one).created  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["PreconditionFailed", "InternalError"])
@pytest.mark.parametrize("overtaken", [False, True], ids=["last", "overtaken"])
def test_a_rollback_whose_answer_was_lost_counts(
    client: Any, registry: ModelRegistry, one: Version, two: Version, three: Version, code: str, overtaken: bool
) -> None:
    """Whether another one has gone back further by then, or not."""
    for version in (one, two, three):
        publish(registry, version)
    then = (lambda: registry.rollback("pose", "staging")) if overtaken else None
    answering = Answering(client, "staging.json", code, times=1, after=True, then=then)
    went_back = ModelRegistry(answering, LOCATION).rollback("pose", "staging")  # type: ignore[arg-type]
    assert (went_back.version, went_back.reason) == (two.manifest.version, "rollback")
    assert registry.show("pose", "staging").version == (one if overtaken else two).manifest.version


def test_a_rollback_that_did_not_arrive_is_no_rollback(
    client: Any, registry: ModelRegistry, one: Version, two: Version
) -> None:
    publish(registry, one)
    publish(registry, two)
    answering = Answering(client, "staging.json", "InternalError", times=1)
    with pytest.raises(TransientError, match="failed while moving the channel"):
        ModelRegistry(answering, LOCATION).rollback("pose", "staging")  # type: ignore[arg-type]
    assert registry.show("pose", "staging").version == two.manifest.version


def test_a_pointer_from_before_moves_were_noted_is_read(client: Any, registry: ModelRegistry, one: Version) -> None:
    publish(registry, one)
    stored = json.loads(client.get_object(Bucket="models", Key=POINTER)["Body"].read())
    assert len(stored.pop("moves")) == 1
    damage(client, "models/pose/channels/staging.json", json.dumps(stored).encode())
    assert registry.show("pose", "staging").moves == ()
    registry.promote("pose", one.manifest.version, "production")
    assert registry.served("pose", "staging") == one.manifest


@pytest.mark.parametrize("suffix", ["manifest.json", "staging.json"])
def test_a_server_without_conditional_writes_is_refused(client: Any, one: Version, suffix: str) -> None:
    answering = Answering(client, suffix, "NotImplemented", times=9)
    with pytest.raises(AccessError, match="does not offer conditional writes"):
        publish(ModelRegistry(answering, LOCATION), one)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["manifest.json", "staging.json"])
def test_endless_contention_ends(client: Any, one: Version, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    answering = Answering(client, suffix, "ConditionalRequestConflict", times=99)
    with pytest.raises((ChannelConflictError, TransientError), match="all the time"):
        publish(ModelRegistry(answering, LOCATION), one)  # type: ignore[arg-type]


def test_an_upload_that_the_server_finds_damaged_is_an_error(client: Any, one: Version) -> None:
    answering = Answering(client, one.manifest.file("model").sha256, "BadDigest", times=1)
    with pytest.raises(DigestError, match="did not arrive"):
        publish(ModelRegistry(answering, LOCATION), one)  # type: ignore[arg-type]
    assert POINTER not in keys(client)


def test_a_missing_bucket_is_named(client: Any, one: Version) -> None:
    with pytest.raises(AccessError, match="bucket 'nowhere' does not exist"):
        publish(ModelRegistry(client, S3Location("nowhere", "registry")), one)


def test_an_impossible_bucket_name_is_no_network_error(client: Any, one: Version) -> None:
    with pytest.raises(ConfigError, match="is not a valid S3 address"):
        publish(ModelRegistry(client, S3Location("No Bucket", "registry")), one)


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch, one: Version, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = make_client(endpoint_url="http://127.0.0.1:9", region_name="us-east-1")
    with pytest.raises(AccessError, match="No AWS credentials"):
        publish(ModelRegistry(client, LOCATION), one)


def test_a_full_disk_leaves_no_partial_download(
    registry: ModelRegistry, one: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry, one)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="No space left on device"):
        registry.download(one.manifest, "model", tmp_path / "served" / "model.onnx")
    assert list((tmp_path / "served").iterdir()) == []


def test_a_prefix_may_be_empty(client: Any, one: Version) -> None:
    registry = ModelRegistry(client, S3Location.parse("s3://models"))
    publish(registry, one)
    assert registry.served("pose", "staging") == one.manifest
    assert "models/pose/channels/staging.json" in keys(client)


def test_versions_of_this_project_before_kernels_were_compared_are_promoted_and_rolled_back_to(
    client: Any, registry: ModelRegistry, one: Version, two: Version
) -> None:
    publish(registry, one)
    data = records.as_published_before_kernels(one.manifest)
    old = json.loads(data)["version"]
    key = f"team/registry/models/pose/versions/{old}/manifest.json"
    client.put_object(Bucket="models", Key=key, Body=data)
    assert registry.promote("pose", old, "staging").previous_version == one.manifest.version
    assert registry.served("pose", "staging").kernels is None
    publish(registry, two)
    assert registry.rollback("pose", "staging").version == old
    assert old in {stored.version for stored in registry.versions("pose")}


def test_an_old_publication_does_not_take_a_channel_back_from_a_later_version(
    registry: ModelRegistry, one: Version, two: Version, three: Version
) -> None:
    publish(registry, one)
    earlier = registry.store(two.manifest, two.files, channel="staging")
    registry.promote("pose", earlier.version, "staging", published=earlier)
    later = registry.store(three.manifest, three.files, channel="staging")
    registry.promote("pose", later.version, "staging", published=later)
    with pytest.raises(ChannelConflictError, match=f"serves version {later.version}") as caught:
        registry.promote("pose", earlier.version, "staging", published=earlier)
    assert f"hpe channel promote pose {earlier.version} --channel staging" in caught.value.hint
    assert registry.show("pose", "staging").version == later.version
    # Its own move once more, another channel, and a move on purpose are no step back.
    assert registry.promote("pose", later.version, "staging", published=later).previous_version == later.version
    registry.promote("pose", earlier.version, "production", published=earlier)
    registry.promote("pose", earlier.version, "staging")
    assert registry.show("pose", "staging").version == earlier.version


def test_a_channel_that_was_rolled_back_to_what_the_publication_saw_may_be_moved_again(
    registry: ModelRegistry, one: Version, two: Version
) -> None:
    publish(registry, one)
    published = registry.store(two.manifest, two.files, channel="staging")
    registry.promote("pose", published.version, "staging", published=published)
    registry.rollback("pose", "staging")
    registry.promote("pose", published.version, "staging", published=published)
    assert registry.show("pose", "staging").version == two.manifest.version


def test_a_channel_that_was_new_at_the_publication_and_was_moved_since_stays(
    registry: ModelRegistry, one: Version, two: Version
) -> None:
    published = registry.store(one.manifest, one.files, channel="staging")
    publish(registry, two)
    with pytest.raises(ChannelConflictError, match=f"serves version {two.manifest.version}"):
        registry.promote("pose", published.version, "staging", published=published)


@pytest.mark.parametrize("what", ["pointer", "manifest", "signature", "record"])
def test_what_is_larger_than_it_should_be_is_not_read(
    registry: ModelRegistry, client: Any, one: Version, key: SigningKey, what: str
) -> None:
    version = registry.store(one.manifest, one.files, key).version
    registry.promote("pose", version, "staging", keys=ChannelKeys(key))
    (entry,) = registry.log.entries("pose")
    model = "team/registry/models/pose"
    keys = {
        "pointer": POINTER,
        "manifest": f"{model}/versions/{version}/manifest.json",
        "signature": f"{model}/versions/{version}/manifest.json.sig",
        "record": f"{model}/log/{entry.file}",
    }
    client.head_object(Bucket="models", Key=keys[what])
    client.put_object(Bucket="models", Key=keys[what], Body=bytes(5 * 1024**2))
    read = {
        "pointer": lambda: registry.show("pose", "staging"),
        "manifest": lambda: registry.stored("pose", version),
        "signature": lambda: registry.signature("pose", version),
        "record": lambda: registry.log.records("pose"),
    }
    with pytest.raises(DigestError, match=r"has 5,242,880 bytes, too many for what it should be"):
        read[what]()
