from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hpe_tasks.catalogue import index
from hpe_tasks.catalogue.index import Catalogue, list_versions
from hpe_tasks.catalogue.kept_rows import KeptRow, KeptRows
from hpe_tasks.catalogue.shared_rows import SharedRows
from hpe_tasks.catalogue.summaries import VersionSummary
from hpe_tasks.errors import AccessError
from hpe_tasks.registry.layout import RegistryLayout
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.catalogued import many_manifests
from support.played_s3 import client, moto_client
from support.signing_keys import key_pem

__all__ = ["client", "moto_client"]

ROOT = S3Location("models", "team/registry")
MODELS = "team/registry/models"


class Shelf:
    """A registry with versions, and the cache of a machine that lists it."""

    def __init__(self, client: Any, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.registry = ModelRegistry(client, ROOT, actor="ada")
        self.cache = folder / "cache"

    def publish(self, content: str, *, key: SigningKey | None = None, **described: Any) -> str:
        files = records.write_files(self.folder / content, content)
        return self.registry.store(records.manifest(files, **described), files, key).version

    def manifest_key(self, version: str) -> str:
        return f"{MODELS}/pose/versions/{version}/manifest.json"

    def list(self) -> Catalogue:
        return list_versions(self.client, ROOT, self.cache)

    def rows(self) -> dict[str, VersionSummary]:
        return {row.version: row for row in self.list().versions}

    @property
    def index(self) -> Path:
        (file,) = (self.cache / "catalogue").glob("VersionSummary-*.json")
        return file


@pytest.fixture
def shelf(client: Any, tmp_path: Path) -> Shelf:
    return Shelf(client, tmp_path)


def test_a_row_says_what_the_manifest_says(shelf: Shelf) -> None:
    version = shelf.publish("one", key=SigningKey(key_pem()), ap=0.6, speed=records.latency(3.5), share=0.8)
    for channel in ("staging", "production"):
        shelf.registry.promote("pose", version, channel)
    (row,) = shelf.list().versions
    assert (row.name, row.version, row.run, row.published_by) == ("pose", version, "run-1", "ada")
    assert (row.channels, row.signed, row.problem) == (("production", "staging"), True, "")
    assert (row.fp32, row.int8, row.metric, row.persons) == (0.61, 0.6, "coco_oks_ap", 310)
    assert row.drop == pytest.approx(0.01)
    assert (row.int8_share, row.fp32_size_bytes, row.verdict) == (0.8, 136_000_000, "passed")
    assert row.speed is not None
    assert (row.speed.ratio, row.speed.processor, row.speed.threads) == (3.5, "AMD EPYC 9R14", 1)
    assert row.recipe == "w8a8_per_channel"
    assert row.input_size == (192, 256)


def test_channels_say_what_they_serve_and_served_before(shelf: Shelf) -> None:
    one, two = shelf.publish("one"), shelf.publish("two")
    for version in (one, two):
        shelf.registry.promote("pose", version, "staging")
    found = shelf.list()
    (channel,) = found.channels
    assert (channel.name, channel.channel, channel.version, channel.served_before) == ("pose", "staging", two, (one,))
    assert (channel.moved_by, channel.reason, channel.signed) == ("ada", "promote", False)
    assert found.models == ("pose",)
    assert {row.version: row.channels for row in found.versions} == {one: (), two: ("staging",)}


def test_what_the_registry_still_holds_is_read_once(shelf: Shelf) -> None:
    one = shelf.publish("one")
    shelf.registry.promote("pose", one, "staging")
    first = shelf.list()
    again = shelf.list()
    assert (first.read_anew, again.read_anew) == (2, 0)
    assert again.versions == first.versions
    two = shelf.publish("two")
    shelf.registry.promote("pose", two, "staging")
    third = shelf.list()
    # The new manifest, and the pointer that was moved.
    assert third.read_anew == 2
    assert {row.version: row.channels for row in third.versions} == {one: (), two: ("staging",)}


def test_a_deleted_version_vanishes_and_one_that_was_changed_is_read_anew(shelf: Shelf, client: Any) -> None:
    one, two = shelf.publish("one"), shelf.publish("two")
    assert shelf.rows().keys() == {one, two}
    client.delete_object(Bucket="models", Key=shelf.manifest_key(one))
    data = json.loads(client.get_object(Bucket="models", Key=shelf.manifest_key(two))["Body"].read())
    data["provenance"]["created_by"] = "mallory"
    client.put_object(Bucket="models", Key=shelf.manifest_key(two), Body=json.dumps(data).encode())
    rows = shelf.rows()
    assert rows.keys() == {two}
    assert rows[two].published_by == "mallory"


def test_a_row_that_was_altered_under_its_etag_is_not_believed(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    version = shelf.publish("one")
    shelf.list()
    whole = shelf.index.read_bytes()
    assert whole.count(b'"int8":0.6,') == 1
    shelf.index.write_bytes(whole.replace(b'"int8":0.6,', b'"int8":0.9,'))
    found = shelf.list()
    assert (found.versions[0].int8, found.read_anew) == (0.6, 1)
    assert "is damaged, and is made again" in caplog.text
    assert shelf.index.read_bytes() == whole
    assert (shelf.list().read_anew, shelf.rows()[version].int8) == (0, 0.6)


def test_a_row_of_another_etag_does_not_count(shelf: Shelf) -> None:
    version = shelf.publish("one")
    shelf.list()
    kept = KeptRows(shelf.cache, f"{shelf.client.meta.endpoint_url} {ROOT}", VersionSummary, 1)
    ((key, row),) = kept.read().items()
    for made_from, int8 in ((row.made_from, 0.99), ('"0123456789abcdef0123456789abcdef"', 0.6)):
        lying: KeptRow[VersionSummary] = KeptRow(made_from=made_from, row=row.row.model_copy(update={"int8": 0.99}))
        kept.write({key: lying})
        # Whoever can write this machine's cache with its digest can say anything under the right ETag.
        assert shelf.rows()[version].int8 == int8


class Registry:
    """Twelve versions, which are many here, read by machines that each have a cache of their own."""

    def __init__(self, client: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(index, "WORTH", 10)
        self.client, self.folder, self.machines = client, folder, 0
        layout = RegistryLayout(ROOT)
        for stored in many_manifests(folder / "files", 12, 2):
            where = layout.manifest(stored.manifest.name, stored.manifest.version)
            client.put_object(Bucket=where.bucket, Key=where.key, Body=stored.data)

    def listed_anew(self) -> Catalogue:
        self.machines += 1
        return list_versions(self.client, ROOT, self.folder / f"cache-{self.machines}")

    @property
    def index(self) -> str:
        found = self.client.list_objects_v2(Bucket="models", Prefix="team/registry/catalogue/").get("Contents", ())
        (entry,) = found
        return str(entry["Key"])

    def rewrite(self, change: Callable[[VersionSummary], VersionSummary]) -> None:
        shared = SharedRows(self.client, ROOT, VersionSummary, 1)
        listed = self.client.list_objects_v2(Bucket="models", Prefix=f"{MODELS}/")["Contents"]
        rows = shared.read({one["Key"].removeprefix(f"{MODELS}/"): one["ETag"] for one in listed}, lambda _: None)
        assert len(rows) == 12
        shared.write({key: KeptRow(made_from=kept.made_from, row=change(kept.row)) for key, kept in rows.items()})


@pytest.fixture
def many(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    return Registry(client, tmp_path, monkeypatch)


def test_another_machine_takes_the_rows_that_lie_in_the_registry(many: Registry, client: Any) -> None:
    first, second = many.listed_anew(), many.listed_anew()
    assert (first.read_anew, second.read_anew) == (12, 0)
    assert second.versions == first.versions
    gone, changed = (f"{MODELS}/{row.name}/versions/{row.version}/manifest.json" for row in first.versions[:2])
    client.delete_object(Bucket="models", Key=gone)
    client.put_object(Bucket="models", Key=changed, Body=b"{")
    third = many.listed_anew()
    assert (len(third.versions), third.read_anew) == (11, 1)
    assert sum("Invalid JSON" in row.problem for row in third.versions) == 1


@pytest.mark.parametrize("kind", ["cut off", "altered", "lying"])
def test_an_index_in_the_registry_that_is_not_true_is_made_again(
    many: Registry, client: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = many.listed_anew()
    whole = client.get_object(Bucket="models", Key=many.index)["Body"].read()
    if kind == "lying":
        many.rewrite(lambda row: row.model_copy(update={"int8": 0.99}))
    else:
        data = whole[:-9] if kind == "cut off" else whole.replace(b'"int8":0.6', b'"int8":0.9')
        assert data != whole
        client.put_object(Bucket="models", Key=many.index, Body=data)
    second = many.listed_anew()
    assert (second.read_anew, second.versions) == (12, first.versions)
    assert ("does not say of" if kind == "lying" else "cannot be used") in caplog.text
    assert client.get_object(Bucket="models", Key=many.index)["Body"].read() == whole
    assert many.listed_anew().read_anew == 0


def test_whoever_may_only_read_lists_the_same(many: Registry, client: Any, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "read only"}}, "PutObject")

    client.meta.events.register("before-call.s3.PutObject", refuse)
    caplog.set_level("INFO")
    try:
        assert [many.listed_anew().read_anew for _ in range(2)] == [12, 12]
    finally:
        client.meta.events.unregister("before-call.s3.PutObject", refuse)
    assert "could not be written" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[:-20], id="cut off"),
        pytest.param(lambda _: "", id="empty"),
        pytest.param(lambda text: text.replace('"made_by":"', '"made_by":"0'), id="of other code"),
        pytest.param(lambda text: text.replace('"fp32":', '"fp31":'), id="of other fields"),
    ],
)
def test_a_damaged_index_is_made_again(shelf: Shelf, damage: Any) -> None:
    version = shelf.publish("one")
    first = shelf.list().versions
    shelf.index.write_text(damage(shelf.index.read_text()))
    found = shelf.list()
    assert (found.read_anew, found.versions) == (1, first)
    assert shelf.list().read_anew == 0
    assert shelf.rows()[version].fp32 == 0.61


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"{", "Invalid JSON", id="no JSON"),
        pytest.param(b'{"name": "pose"}', "Field required", id="fields are missing"),
        pytest.param(b"\xff\xfe\x00", "Invalid JSON", id="not UTF-8"),
        pytest.param(None, "the content says", id="another gate"),
    ],
)
def test_a_damaged_manifest_has_a_row_that_says_so(shelf: Shelf, client: Any, content: bytes | None, says: str) -> None:
    one, two = shelf.publish("one"), shelf.publish("two")
    key = shelf.manifest_key(one)
    if content is None:
        data = json.loads(client.get_object(Bucket="models", Key=key)["Body"].read())
        data["gate"]["checks"][0]["limit"] = 0.0
        content = json.dumps(data).encode()
    client.put_object(Bucket="models", Key=key, Body=content)
    for _ in range(2):
        rows = shelf.rows()
        assert says in rows[one].problem
        assert (rows[one].int8, rows[one].verdict, rows[two].problem) == (None, None, "")


def test_a_manifest_of_another_version_is_damaged(shelf: Shelf, client: Any) -> None:
    one, two = shelf.publish("one"), shelf.publish("two")
    copy = client.get_object(Bucket="models", Key=shelf.manifest_key(two))["Body"].read()
    client.put_object(Bucket="models", Key=shelf.manifest_key(one), Body=copy)
    assert f"it describes 'pose' {two}" in shelf.rows()[one].problem


def test_a_damaged_pointer_has_a_row_that_says_so(shelf: Shelf, client: Any) -> None:
    version = shelf.publish("one")
    client.put_object(Bucket="models", Key=f"{MODELS}/pose/channels/staging.json", Body=b"{}")
    found = shelf.list()
    assert "The channel's pointer is damaged" in found.channels[0].problem
    assert found.channels[0].version is None
    assert [(row.version, row.channels) for row in found.versions] == [(version, ())]


def test_other_objects_below_models_are_not_looked_at(shelf: Shelf, client: Any) -> None:
    shelf.publish("one")
    for key in (
        "pose/versions/latest/manifest.json",
        "pose/log/1.json",
        "Pose/versions/0123456789abcdef/manifest.json",
    ):
        client.put_object(Bucket="models", Key=f"{MODELS}/{key}", Body=b"{}")
    found = shelf.list()
    assert (len(found.versions), found.models, found.channels) == (1, ("pose",), ())


def test_more_objects_than_one_answer_holds(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {shelf.publish(content) for content in ("one", "two", "three")}
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    assert shelf.rows().keys() == versions


def test_an_empty_registry_has_nothing_and_a_missing_bucket_is_said(shelf: Shelf, client: Any) -> None:
    assert shelf.list().versions == ()
    with pytest.raises(AccessError, match="'elsewhere' does not exist"):
        list_versions(client, S3Location("elsewhere", "registry"), shelf.cache)


def test_without_a_place_for_the_index_the_answer_is_the_same(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    version = shelf.publish("one")
    shelf.cache.write_text("a file")
    assert [row.version for row in shelf.list().versions] == [version]
    assert "reads everything again" in caplog.text


def test_registries_on_one_machine_keep_apart(shelf: Shelf, client: Any) -> None:
    shelf.publish("one")
    shelf.list()
    other = list_versions(client, S3Location("models", "other"), shelf.cache)
    assert other.versions == ()
    assert shelf.list().read_anew == 0


def test_an_older_manifest_says_less(shelf: Shelf, client: Any) -> None:
    file = Path(__file__).parents[1] / "registry/manifests/pose_mobilenet_before_saturation_free.json"
    old = json.loads(file.read_bytes())
    key = f"{MODELS}/{old['name']}/versions/{old['version']}/manifest.json"
    client.put_object(Bucket="models", Key=key, Body=file.read_bytes())
    (row,) = shelf.list().versions
    assert (row.problem, row.version, row.speed, row.recipe_found) == ("", old["version"], None, None)
    assert row.int8 == old["onnx"]["stats"]["ap"]
