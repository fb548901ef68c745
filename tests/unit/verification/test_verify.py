"""What is found of a published version from its registry alone; every way to falsify it is named."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hpe_tasks.cli.app import app
from hpe_tasks.contract.keys import blob_key
from hpe_tasks.contract.version import content_version
from hpe_tasks.errors import AccessError, ConfigError, DigestError
from hpe_tasks.pipeline.provenance import build_environment
from hpe_tasks.registry.channel_keys import ChannelKeys
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.serving.served_model import ServedModel
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.verification import VerifiedVersion, verify_version
from hpe_tasks.verification.stored import read_manifest
from support import sample_records as records
from support.played_s3 import models_bucket, moto_client
from support.signing_keys import key_pem
from support.verified_versions import Version, config, judged_version

__all__ = ["moto_client"]

LOCATION = S3Location("models", "team/registry")
POINTER = "models/pose/channels/staging.json"


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(key_pem())


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return judged_version(tmp_path_factory.mktemp("version"))


class Published:
    """A signed version in a registry that anybody may write to."""

    def __init__(self, client: Any, key: SigningKey) -> None:
        self.client, self.key = client, key
        self.registry = ModelRegistry(client, LOCATION)

    def publish(self, version: Version) -> ModelManifest:
        manifest, files = version
        stored = self.registry.store(manifest, files, self.key)
        self.registry.promote("pose", stored.version, "staging", keys=ChannelKeys(self.key))
        return manifest

    def verify(self, version: str | None, *, signed: bool = True, channel: str | None = None) -> VerifiedVersion:
        keys = (self.key.public_bytes,) if signed else ()
        return verify_version(self.client, LOCATION, "pose", version=version, channel=channel, public_keys=keys)

    def get(self, place: str) -> bytes:
        data: bytes = self.client.get_object(Bucket="models", Key=f"team/registry/{place}")["Body"].read()
        return data

    def put(self, place: str, data: bytes) -> None:
        self.client.put_object(Bucket="models", Key=f"team/registry/{place}", Body=data)

    def delete(self, place: str) -> None:
        self.client.delete_object(Bucket="models", Key=f"team/registry/{place}")

    def forge(self, manifest: ModelManifest, change: Callable[[dict[str, Any]], object]) -> str:
        """Publish a changed manifest as its owner could: with the version that follows from it, and his signature."""
        record = json.loads(manifest.to_bytes())
        change(record)
        limits = {check["name"]: check["limit"] for check in record["gate"]["checks"]}
        model = manifest.file("model").sha256
        record["version"] = content_version(model, record["serving"], record["onnx"]["fingerprint"], limits)
        data = ModelManifest.model_validate(record).to_bytes()
        place = f"models/pose/versions/{record['version']}/manifest.json"
        self.put(place, data)
        self.put(f"{place}.sig", self.key.sign(data))
        version: str = record["version"]
        return version

    def replace(self, record: dict[str, Any], role: str, data: bytes) -> None:
        """Publish another file in a role."""
        digest = hashlib.sha256(data).hexdigest()
        self.put(blob_key(digest), data)
        (file,) = (file for file in record["files"] if file["role"] == role)
        file |= {"sha256": digest, "blob": blob_key(digest), "size_bytes": len(data)}


@pytest.fixture
def published(moto_client: Any, key: SigningKey) -> Iterator[Published]:
    with models_bucket(moto_client):
        yield Published(moto_client, key)


def outcomes(found: VerifiedVersion) -> dict[str, str]:
    return {check.name: check.outcome for check in found.checks}


@pytest.mark.parametrize("by", ["version", "channel"])
def test_what_is_whole_passes_every_check(published: Published, version: Version, by: str) -> None:
    manifest = published.publish(version)
    found = published.verify(manifest.version) if by == "version" else published.verify(None, channel="staging")
    assert (found.failed, found.not_made, found.version) == ((), (), manifest.version)
    assert {name.partition("/")[0] for name in outcomes(found)} == {
        *("signature", "manifest", "version", "file", "figures", "predictions", "truth", "comparison", "gate"),
        *("provenance", "configuration", "matches"),
        *(("pointer_signature", "pointer_digest") if by == "channel" else ()),
    }
    assert {check.name for check in found.not_asked} == {"matches/fp32", "matches/quantsim", "matches/onnxruntime"}
    assert all("give --dataset" in check.found for check in found.not_asked)
    how = {check.name: check.how for check in found.checks}
    assert {how[name] for name in ("version", "figures/onnxruntime", "comparison", "gate")} == {"computation"}


def test_images_that_were_measured_later_are_counted_as_well(published: Published, tmp_path: Path) -> None:
    limits = config().gate.model_copy(update={"max_ap_drop": 0.06, "max_size_drop": 0.5, "max_looks": 3})
    manifest, files = judged_version(tmp_path, asked=config(gate=limits), first=8)
    comparison = manifest.gate.comparison
    assert comparison is not None
    assert len(comparison.looks) > 1
    published.publish((manifest, files))
    found = published.verify(manifest.version)
    assert (found.failed, found.not_made) == ((), ())


DAMAGES: dict[str, tuple[Callable[[Published, ModelManifest], object], set[str]]] = {
    "signature gone": (lambda p, m: p.delete(f"{place(m)}.sig"), {"signature"}),
    "another's signature": (
        lambda p, m: p.put(f"{place(m)}.sig", SigningKey(key_pem()).sign(p.get(place(m)))), {"signature"},
    ),
    "manifest written otherwise": (
        lambda p, m: p.put(place(m), json.dumps(json.loads(p.get(place(m)))).encode()),
        {"signature", "pointer_digest", "manifest"},
    ),
    "a field twice": (
        lambda p, m: p.put(place(m), p.get(place(m)).replace(b"{", b'{"name": "hands",', 1)),
        {"signature", "pointer_digest", "manifest"},
    ),
    "manifest no JSON": (lambda p, m: p.put(place(m), b"{"), {"signature", "pointer_digest", "manifest"}),
    "figures edited": (
        lambda p, m: p.put(place(m), p.get(place(m)).replace(str(m.onnx.stats.ap).encode(), b"0.99")),
        {"signature", "pointer_digest", "figures/onnxruntime", "comparison", "gate"},
    ),
    "model damaged": (
        lambda p, m: p.put(m.file("model").blob, bytes(m.file("model").size_bytes)), {"file/model"},
    ),
    "model longer": (lambda p, m: p.put(m.file("model").blob, bytes(10**6)), {"file/model"}),
    "encodings gone": (lambda p, m: p.delete(m.file("encodings").blob), {"file/encodings"}),
    "pointer not signed": (
        lambda p, m: p.put(POINTER, json.dumps(json.loads(p.get(POINTER)) | {"signature": None}).encode()),
        {"pointer_signature"},
    ),
    "pointer edited": (
        lambda p, m: p.put(POINTER, json.dumps(json.loads(p.get(POINTER)) | {"moved_by": "eve"}).encode()),
        {"pointer_signature"},
    ),
}  # fmt: skip


def place(manifest: ModelManifest) -> str:
    return f"models/pose/versions/{manifest.version}/manifest.json"


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_named(published: Published, version: Version, damage: str) -> None:
    manifest = published.publish(version)
    change, wrong = DAMAGES[damage]
    change(published, manifest)
    found = published.verify(None, channel="staging")
    failed = {check.name for check in found.failed}
    assert failed == wrong
    assert all(check.found for check in found.failed)


def test_evidence_that_is_damaged_is_no_evidence(published: Published, version: Version) -> None:
    manifest = published.publish(version)
    published.delete(manifest.file("table-onnxruntime").blob)
    found = published.verify(manifest.version)
    assert {check.name for check in found.failed} == {"file/table-onnxruntime"}
    assert {check.name for check in found.not_made} == {
        "figures/onnxruntime", "predictions/onnxruntime", "comparison",
    }  # fmt: skip


def edited_table(data: bytes, **arrays: Any) -> bytes:
    with np.load(io.BytesIO(data)) as file:
        kept = {name: file[name] for name in file.files}
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **(kept | {n: change(kept[n]) for n, change in arrays.items()}))
    return out.getvalue()


def _set(record: dict[str, Any], *path: str | int, value: Any) -> None:
    *to, last = path
    for step in to:
        record = record[step]  # type: ignore[index]
    record[last] = value  # type: ignore[index]


def _dependency(record: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in record["build"]["buildDefinition"]["resolvedDependencies"] if one["name"] == name
    )
    return found


ONNX = "table-onnxruntime"
LIES: dict[str, tuple[Callable[[Published, dict[str, Any]], object], set[str]]] = {
    "a better AP": (
        lambda p, r: _set(r, "onnx", "stats", "ap", value=0.95), {"figures/onnxruntime", "gate"},
    ),
    "a better joint": (lambda p, r: _set(r, "onnx", "by_joint", "nose", value=0.99), {"figures/onnxruntime"}),
    "a better size": (lambda p, r: _set(r, "fp32", "stats", "ap_large", value=0.5), {"figures/fp32"}),
    "a joint that nobody counted": (
        lambda p, r: _set(r, "onnx", "by_joint", "tail", value=0.5), {"figures/onnxruntime"},
    ),
    "a better simulation": (lambda p, r: _set(r, "quantsim", "stats", "ap", value=0.8), {"figures/quantsim", "gate"}),
    "a table of other matches": (
        lambda p, r: p.replace(r, ONNX, edited_table(p.get(p_blob(r, ONNX)), true=np.zeros_like)),
        {"figures/onnxruntime", "comparison"},
    ),
    "a table of other images": (
        lambda p, r: p.replace(r, ONNX, edited_table(p.get(p_blob(r, ONNX)), images=lambda a: a + 1)),
        {"figures/onnxruntime", "predictions/onnxruntime", "comparison"},
    ),
    "a table that is none": (
        lambda p, r: p.replace(r, ONNX, b"PK"), {"figures/onnxruntime", "predictions/onnxruntime", "comparison"},
    ),
    "predictions of another network": (
        lambda p, r: p.replace(r, "predictions-onnxruntime", p.get(p_blob(r, "predictions-fp32"))),
        {"predictions/onnxruntime"},
    ),
    "predictions that are none": (
        lambda p, r: p.replace(r, "predictions-onnxruntime", b'[{"image_id": "x"}]'), {"predictions/onnxruntime"},
    ),
    "an interval that is narrower": (
        lambda p, r: _set(r, "gate", "comparison", "parts", 0, "low", value=-0.0001), {"comparison", "gate"},
    ),
    "a comparison of more images": (
        lambda p, r: _set(r, "gate", "comparison", "num_images", value=600), {"comparison"},
    ),
    "less confidence": (lambda p, r: _set(r, "gate", "comparison", "confidence", value=0.5), {"comparison"}),
    "a look that never was": (lambda p, r: r["gate"]["comparison"]["looks"].insert(
        0, r["gate"]["comparison"]["looks"][0] | {"num_images": 10}), {"comparison"},
    ),
    "a limit that was not asked for": (
        lambda p, r: _set(r, "gate", "checks", 0, "limit", value=0.01), {"gate"},
    ),
    "a check that is left out": (lambda p, r: r["gate"]["checks"].pop(), {"gate"}),
    "a check that did not pass": (lambda p, r: _set(r, "gate", "checks", 0, "passed", value=False), {"gate"}),
    "more of it in int8": (lambda p, r: _set(r, "placement", "int8_mac_share", value=0.99), {"gate"}),
    "another protocol for FP32": (
        lambda p, r: _set(r, "fp32", "fingerprint", "decoder", value="another"), {"truth", "gate"},
    ),
    "another data set": (
        lambda p, r: _set(r, "provenance", "dataset_digest", value="0" * 64), {"truth", "provenance"},
    ),
    "another checkpoint": (
        lambda p, r: _dependency(r, "checkpoint")["digest"].update(sha256="0" * 64), {"provenance"},
    ),
    "an input without its digest": (lambda p, r: _dependency(r, "dataset")["digest"].clear(), {"provenance"}),
    "an input twice": (lambda p, r: r["build"]["buildDefinition"]["resolvedDependencies"].append(
        _dependency(r, "checkpoint")), {"provenance"},
    ),
    "another run": (
        lambda p, r: _set(r, "build", "runDetails", "metadata", "invocationId", value="x"), {"provenance"},
    ),
    "an end before the start": (
        lambda p, r: _set(r, "build", "runDetails", "metadata", "startedOn", value="2027-01-01T00:00:00Z"),
        {"provenance"},
    ),
    "other versions": (
        lambda p, r: _set(r, "build", "runDetails", "builder", "version", "onnxruntime", value="1.0"), {"provenance"},
    ),
    "another seed": (
        lambda p, r: _set(r, "build", "buildDefinition", "externalParameters", "seed", value=8),
        {"comparison", "configuration"},
    ),
    "another model's configuration": (
        lambda p, r: _set(r, "build", "buildDefinition", "externalParameters", "destination", "name", value="hands"),
        {"configuration"},
    ),
}  # fmt: skip


def test_a_table_that_unpacks_to_more_than_any_has_is_not_unpacked(
    published: Published, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = published.publish(version)
    monkeypatch.setattr("hpe_tasks.verification.measured._LARGEST_TABLE_BYTES", 1000)
    failed = {check.name: check.found for check in published.verify(manifest.version).failed}
    assert "unpacks to more than 1,000 bytes" in failed["figures/onnxruntime"]


def p_blob(record: dict[str, Any], role: str) -> str:
    (blob,) = (file["blob"] for file in record["files"] if file["role"] == role)
    return str(blob)


@pytest.mark.parametrize("lie", LIES)
def test_what_the_owner_himself_falsified_is_found(published: Published, version: Version, lie: str) -> None:
    manifest = published.publish(version)
    change, wrong = LIES[lie]
    found = published.verify(published.forge(manifest, lambda record: change(published, record)))
    assert {check.name for check in found.failed} == wrong, [(c.name, c.found) for c in found.failed]


def test_a_manifest_that_was_published_years_ago_is_as_it_was_written(repository: Path) -> None:
    for file in (repository / "tests" / "unit" / "registry" / "manifests").iterdir():
        data = file.read_bytes()
        read_manifest(data)
        with pytest.raises(DigestError, match="not those that are written"):
            read_manifest(data.replace(b": ", b":", 1))


def test_arrays_that_do_not_fit_together_are_no_evidence(published: Published, version: Version) -> None:
    manifest = published.publish(version)
    for name, change in {
        "result_image": lambda array: array + 1000,
        "score": lambda array: array[:-1],
        "persons": lambda array: array[:, :3],
        "true": lambda array: array.astype("U5"),
        "images": lambda array: array.astype("U5"),
    }.items():
        table = edited_table(published.get(manifest.file(ONNX).blob), **{name: change})

        def put(record: dict[str, Any], table: bytes = table) -> None:
            published.replace(record, ONNX, table)

        failed = {check.name for check in published.verify(published.forge(manifest, put)).failed}
        assert failed & {"figures/onnxruntime", "predictions/onnxruntime"}, name
        assert failed <= {"figures/onnxruntime", "predictions/onnxruntime", "comparison"}, name


def test_a_version_of_before_passes_what_can_be_checked(published: Published, tmp_path: Path, key: SigningKey) -> None:
    files = records.write_files(tmp_path)
    manifest = records.manifest(files)
    data = records.as_published_before_kernels(manifest)
    version = json.loads(data)["version"]
    for file in manifest.files:
        published.put(file.blob, files[file.role].read_bytes())
    published.put(f"models/pose/versions/{version}/manifest.json", data)
    published.put(f"models/pose/versions/{version}/manifest.json.sig", key.sign(data))
    found = published.verify(version)
    assert found.failed == ()
    assert {name for name, outcome in outcomes(found).items() if outcome == "passed"} == {
        *("signature", "manifest", "version", "file/model", "file/encodings", "truth"),
    }
    assert "older" in next(check.found for check in found.checks if check.name == "manifest")


def test_without_a_key_signatures_are_not_looked_at(published: Published, version: Version) -> None:
    published.publish(version)
    found = published.verify(None, channel="staging", signed=False)
    assert found.failed == ()
    assert {check.name for check in found.not_made} == {"signature", "pointer_signature"}


def test_what_is_not_there_is_told(published: Published, version: Version) -> None:
    published.publish(version)
    with pytest.raises(AccessError, match="has no version"):
        published.verify("0" * 16)
    with pytest.raises(AccessError, match="has no channel 'production'"):
        published.verify(None, channel="production")
    published.put(POINTER.replace("staging", "production"), published.get(POINTER))
    with pytest.raises(DigestError, match="is one of channel 'staging' of 'pose'"):
        published.verify(None, channel="production")


@pytest.fixture
def command(published: Published, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr("hpe_tasks.storage.s3.make_client", lambda: published.client)
    key = base64.b64encode(published.key.public_bytes).decode()

    def _command(*arguments: str, public_key: str | None = key) -> Any:
        asked = ["verify", *arguments, "--name", "pose", "--registry", str(LOCATION)]
        return CliRunner().invoke(app, asked, env={"HPE_PUBLIC_KEY": public_key, "COLUMNS": "160"})

    return _command


def test_the_command_says_what_was_found(published: Published, version: Version, command: Callable[..., Any]) -> None:
    manifest = published.publish(version)
    done = command(manifest.version)
    assert done.exit_code == 0, done.output
    assert "checks passed; 3 need the data set: give --dataset." in done.output
    by_channel = command("staging", "--json")
    assert by_channel.exit_code == 0, by_channel.output
    assert json.loads(by_channel.output)["channel"] == "staging"
    unsigned = command("staging", public_key=None)
    assert (unsigned.exit_code, "2 could not be made" in unsigned.output) == (0, True)
    assert command("staging", "--strict", public_key=None).exit_code == 1
    key = base64.b64encode(published.key.public_bytes).decode()
    assert command("staging", "--strict", "--public-key", key, public_key=None).exit_code == 0
    published.delete(manifest.file("encodings").blob)
    damaged = command("staging")
    assert damaged.exit_code == 1
    assert "1 failed: File encodings" in damaged.output


def test_the_command_refuses_what_it_cannot_look_at(published: Published, command: Callable[..., Any]) -> None:
    assert isinstance(command("0" * 16).exception, AccessError)
    assert isinstance(command("staging").exception, AccessError)
    assert isinstance(command("Staging!").exception, ConfigError)
    assert isinstance(command("staging", "--public-key", "x").exception, ConfigError)


def test_provenance_counts_nothing_for_the_version(version: Version) -> None:
    record = json.loads(version[0].to_bytes())
    for change in ({"startedOn": None}, {"finishedOn": "2030-01-01T00:00:00Z"}, {"invocationId": "run-2"}):
        record["build"]["runDetails"]["metadata"] |= change
        assert ModelManifest.model_validate(record).version == version[0].version
    del record["build"]
    assert ModelManifest.model_validate(record).version == version[0].version
    assert ServedModel.from_manifest(version[0].to_bytes()).version == version[0].version


def test_provenance_names_the_lock_and_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_bytes(b"numpy==2\n")
    monkeypatch.setenv("HPE_LOCK", str(lock))
    environment = build_environment()
    assert environment.lock_sha256 == hashlib.sha256(b"numpy==2\n").hexdigest()
    assert environment.distributions["numpy"] == np.__version__
    monkeypatch.setenv("HPE_LOCK", str(tmp_path / "none.txt"))
    with pytest.raises(ConfigError, match=r"HPE_LOCK=.*none\.txt' cannot be read"):
        build_environment()
