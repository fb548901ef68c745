from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from hpe_tasks.contract.keys import blob_key
from hpe_tasks.contract.stored_graph import graph_role
from hpe_tasks.errors import AccessError, DigestError, HpeError, StorageError, TransientError
from hpe_tasks.registry.channel_keys import ChannelKeys
from hpe_tasks.registry.manifest import ManifestFile
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.registry.signing import SigningKey
from hpe_tasks.serving import registry_source
from hpe_tasks.serving.registry_source import RegistrySource
from hpe_tasks.serving.s3 import s3_client
from hpe_tasks.serving.service import PoseService
from hpe_tasks.serving.settings import ServingSettings
from hpe_tasks.serving.sources import PackageSource, open_source
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.played_s3 import models_bucket, moto_client
from support.serving_cases import Context, ask, base64_of, encoded, photo, tiny_model
from support.signing_keys import key_pem

__all__ = ["moto_client"]

REGISTRY = S3Location("models", "team/registry")
POINTER = "models/pose/channels/staging.json"
PHOTO = base64_of(encoded(photo()))


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey(key_pem())


class Package:
    """An unpacked package's model folder."""

    def __init__(self, folder: Path, key: SigningKey) -> None:
        folder.mkdir()
        files = records.write_files(folder.parent / "files")
        self.folder = folder
        self.manifest, self.model, self.signature = (
            folder / name for name in ("manifest.json", "model.onnx", "manifest.json.sig")
        )
        self.manifest.write_bytes(records.manifest(files).to_bytes())
        shutil.copyfile(files["model"], self.model)
        self.signature.write_bytes(key.sign(self.manifest.read_bytes()))

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the manifest's JSON."""
        record = json.loads(self.manifest.read_bytes())
        change(record)
        self.manifest.write_text(json.dumps(record))


@pytest.fixture
def package(tmp_path: Path, key: SigningKey) -> Package:
    return Package(tmp_path / "model", key)


def test_the_model_of_the_package_is_served(package: Package, key: SigningKey) -> None:
    for public_keys in ((), (key.public_bytes,)):
        source = PackageSource(package.folder, public_keys)
        verified = source.load()
        assert (verified.file, verified.origin) == (package.model, "package")
        assert (verified.model.name, verified.model.codec) == ("pose", "heatmap")
        assert verified.model.model_size_bytes == package.model.stat().st_size
        assert source.newer(verified) is None


def add_graph(package: Package, key: SigningKey, role: str | None = None) -> Path:
    """Put a graph into a package whose manifest vouches for it, as that of this machine and onnxruntime or another."""
    graph = package.folder / "graph.onnx"
    graph.write_bytes(b"graph " * 500)
    model = hashlib.sha256(package.model.read_bytes()).hexdigest()
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    file = {
        "role": role or graph_role(model, os.uname().machine, onnxruntime.__version__),
        "blob": f"blobs/sha256/{digest}",
        "sha256": digest,
        "size_bytes": graph.stat().st_size,
    }
    package.edit(lambda record: record["files"].append(file))
    package.signature.write_bytes(key.sign(package.manifest.read_bytes()))
    return graph


@pytest.mark.parametrize("signed", [False, True])
def test_the_graph_that_the_manifest_vouches_for_is_loaded_in_place_of_the_model(
    package: Package, key: SigningKey, signed: bool
) -> None:
    graph = add_graph(package, key)
    verified = PackageSource(package.folder, (key.public_bytes,) if signed else ()).load()
    assert (verified.file, verified.network.optimized) == (graph, True)
    assert verified.network.sha256 == hashlib.sha256(graph.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        lambda model: graph_role(model, "aarch64", onnxruntime.__version__),
        lambda model: graph_role(model, os.uname().machine, "1.0.0"),
        lambda model: graph_role("f" * 64, os.uname().machine, onnxruntime.__version__),
    ],
    ids=["another machine", "another onnxruntime", "another model"],
)
def test_a_graph_that_is_not_for_here_is_left_alone(
    package: Package, key: SigningKey, other: Callable[[str], str]
) -> None:
    add_graph(package, key, other(hashlib.sha256(package.model.read_bytes()).hexdigest()))
    verified = PackageSource(package.folder, (key.public_bytes,)).load()
    assert (verified.file, verified.network.optimized) == (package.model, False)


def forge(package: Package) -> None:
    """Another graph, and a manifest that vouches for it: what a signature is there against."""
    graph = package.folder / "graph.onnx"
    append(graph)
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    change = {"sha256": digest, "blob": f"blobs/sha256/{digest}", "size_bytes": graph.stat().st_size}
    package.edit(lambda record: record["files"][-1].update(change))


@pytest.mark.parametrize(
    ("change", "signed", "message"),
    [
        pytest.param(lambda p: append(p.folder / "graph.onnx"), False, "is not the model", id="one byte more"),
        pytest.param(lambda p: zero_byte(p.folder / "graph.onnx"), True, "is not the model", id="one byte changed"),
        pytest.param(lambda p: (p.folder / "graph.onnx").write_bytes(b""), False, "is not the model", id="empty"),
        pytest.param(forge, True, "does not belong to", id="the manifest vouches for another"),
        pytest.param(
            lambda p: p.edit(lambda r: r["files"][-1].update(sha256="x")), False, "of the form", id="no digest"
        ),
    ],
)
def test_an_edited_graph_is_refused_although_the_model_is_whole(
    package: Package, key: SigningKey, change: Callable[[Package], object], signed: bool, message: str
) -> None:
    add_graph(package, key)
    change(package)
    with pytest.raises(DigestError, match=message):
        PackageSource(package.folder, (key.public_bytes,) if signed else ()).load()


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def zero_byte(path: Path) -> None:
    path.write_bytes(b"\0" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda p: zero_byte(p.model), "not the model that its manifest describes", id="model changed"),
        pytest.param(lambda p: append(p.model), "not the model that its manifest describes", id="model longer"),
        pytest.param(lambda p: p.model.write_bytes(b""), "not the model that its manifest", id="model empty"),
        pytest.param(lambda p: zero_byte(p.manifest), "manifest is not JSON", id="manifest no JSON"),
        pytest.param(lambda p: p.manifest.write_bytes(b""), "manifest is not JSON", id="manifest empty"),
        pytest.param(
            lambda p: p.edit(lambda r: r["serving"].update(mean=[0.5, 0.5, 0.5])), "content says", id="other mean"
        ),
        pytest.param(
            lambda p: p.edit(lambda r: r["serving"]["flip_pairs"].reverse()), "content says", id="other flip pairs"
        ),
        pytest.param(lambda p: p.edit(lambda r: r.update(version="0" * 16)), "content says", id="other version"),
        pytest.param(lambda p: p.edit(lambda r: r.pop("gate")), "derived from", id="no gate"),
        pytest.param(
            lambda p: p.edit(lambda r: r["gate"]["checks"].append("oops")), "derived from", id="a check is text"
        ),
    ],
)
def test_a_changed_package_is_refused_without_a_signature_too(
    package: Package, change: Callable[[Package], object], message: str
) -> None:
    change(package)
    with pytest.raises(DigestError, match=message) as caught:
        PackageSource(package.folder, ()).load()
    assert caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda p: append(p.manifest), "does not belong to", id="one byte more"),
        pytest.param(
            lambda p: p.edit(lambda r: r["provenance"].update(created_by="mallory")), "does not belong", id="person"
        ),
        pytest.param(lambda p: p.signature.unlink(), "is not signed, and HPE_PUBLIC_KEY requires it", id="missing"),
        pytest.param(lambda p: zero_byte(p.signature), "is not one of Ed25519", id="signature changed"),
        pytest.param(
            lambda p: p.signature.write_bytes(SigningKey(key_pem()).sign(p.manifest.read_bytes())),
            "does not belong to",
            id="another key",
        ),
    ],
)
def test_a_required_signature_must_be_that_of_the_manifest(
    package: Package, key: SigningKey, change: Callable[[Package], object], message: str
) -> None:
    change(package)
    with pytest.raises(DigestError, match=message) as caught:
        PackageSource(package.folder, (key.public_bytes,)).load()
    assert caught.value.hint


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_a_package_without_a_model_says_what_to_do(package: Package, name: str) -> None:
    (package.folder / name).unlink()
    with pytest.raises(AccessError, match=rf"{name} does not exist\. .*--with-model.*HPE_REGISTRY"):
        PackageSource(package.folder, ()).load()


@pytest.mark.parametrize(("signed", "modules"), [(False, []), (True, ["nacl"])])
def test_a_package_needs_neither_boto3_nor_more_than_it_must(
    package: Package, key: SigningKey, signed: bool, modules: list[str]
) -> None:
    code = (
        "import sys; from pathlib import Path; from hpe_tasks.serving.sources import PackageSource\n"
        f"PackageSource(Path(sys.argv[1]), {(key.public_bytes,) if signed else ()!r}).load()\n"
        "print([name for name in ('boto3', 'botocore', 'nacl', 'pydantic', 'cryptography') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, package.folder], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(modules)


def serving_settings(**environment: str) -> ServingSettings:
    return ServingSettings.from_environment(environment, Path("/var/task"))


def test_the_settings_choose_the_source() -> None:
    assert isinstance(open_source(serving_settings()), PackageSource)
    named = {"HPE_REGISTRY": "s3://models/team/registry", "HPE_MODEL": "pose"}
    assert isinstance(open_source(serving_settings(**named, HPE_CHANNEL="staging")), RegistrySource)
    assert isinstance(open_source(serving_settings(**named, HPE_VERSION="0" * 16)), RegistrySource)


class Requests:
    """A client that notes which objects are read, and may fail."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.read: list[str] = []
        self.error: Exception | None = None
        self.closed = 0

    def get_object(self, **arguments: Any) -> Any:
        self.read.append(arguments["Key"].removeprefix("team/registry/"))
        if self.error is not None:
            raise self.error
        return self._client.get_object(**arguments)

    def close(self) -> None:
        self.closed += 1

    def taken(self) -> list[str]:
        """What was read since the last time."""
        read, self.read = self.read, []
        return read


@dataclass
class Bucket:
    """A registry with published models, and a source that reads from it.

    Attributes:
        requests: What the source asks for.
        folder: Where it keeps models.
    """

    client: Any
    registry: ModelRegistry
    requests: Requests
    key: SigningKey
    folder: Path

    def publish(self, content: str, *, signed: bool = True, graph: bool = False) -> Any:
        """Publish a model whose content is named by a word, and point the channel to it."""
        files = records.write_files(self.folder.parent / content, content)
        manifest = records.manifest(files)
        if graph:
            role = graph_role(manifest.file("model").sha256, os.uname().machine, onnxruntime.__version__)
            files[role] = files["model"].with_name("graph.onnx")
            files[role].write_bytes(f"graph {content} ".encode() * 900)
            digest = hashlib.sha256(files[role].read_bytes()).hexdigest()
            size = files[role].stat().st_size
            file = ManifestFile(role=role, blob=blob_key(digest), sha256=digest, size_bytes=size)
            manifest = manifest.model_copy(update={"files": (*manifest.files, file)})
        published = self.registry.store(manifest, files, self.key if signed else None)
        keys = ChannelKeys(self.key)
        self.registry.promote("pose", published.version, "staging", published=published, keys=keys)
        model = manifest.file("model")
        versions = f"models/pose/versions/{manifest.version}"
        return SimpleNamespace(
            version=manifest.version,
            blob=model.blob,
            file=self.folder / f"{model.sha256}.onnx",
            manifest=f"{versions}/manifest.json",
            signature=f"{versions}/manifest.json.sig",
            content=files["model"].read_bytes(),
        )

    def source(self, *, signed: bool = False, version: str | None = None) -> RegistrySource:
        return RegistrySource(
            str(REGISTRY),
            "pose",
            channel=None if version else "staging",
            version=version,
            public_keys=(self.key.public_bytes,) if signed else (),
            folder=self.folder,
        )

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket="models", Key=f"team/registry/{name}", Body=data)

    def get(self, name: str) -> bytes:
        data: bytes = self.client.get_object(Bucket="models", Key=f"team/registry/{name}")["Body"].read()
        return data

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket="models", Key=f"team/registry/{name}")

    def edit(self, place: str, **changes: Any) -> None:
        """Change fields of a JSON object."""
        self.put(place, json.dumps({**json.loads(self.get(place)), **changes}).encode())

    def files(self) -> set[Path]:
        return set(self.folder.glob("*.onnx*"))


@pytest.fixture
def bucket(moto_client: Any, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    requests = Requests(moto_client)
    monkeypatch.setattr(registry_source, "s3_client", lambda renewal=False: requests)
    registry = ModelRegistry(moto_client, REGISTRY)
    with models_bucket(moto_client):
        yield Bucket(moto_client, registry, requests, key, tmp_path / "kept")


@pytest.mark.parametrize("signed", [False, True])
def test_what_the_channel_points_to_is_served(bucket: Bucket, signed: bool) -> None:
    one = bucket.publish("one")
    verified = bucket.source(signed=signed).load()
    assert verified.model.version == one.version
    assert verified.file == one.file
    assert one.file.read_bytes() == one.content
    assert verified.origin == f"s3://models/team/registry/{one.manifest}"
    # Without a key the signature is not read.
    assert bucket.requests.taken() == [POINTER, one.manifest, *([one.signature] if signed else []), one.blob]
    # A connection would be dead after the function was frozen.
    assert bucket.requests.closed == 1
    assert bucket.files() == {one.file}


def test_of_a_version_with_a_graph_the_graph_alone_is_downloaded(bucket: Bucket) -> None:
    one = bucket.publish("one", graph=True)
    verified = bucket.source(signed=True).load()
    assert verified.network.optimized
    assert verified.file == bucket.folder / f"{verified.network.sha256}.onnx"
    assert verified.file.read_bytes() == b"graph one " * 900
    graph = f"blobs/sha256/{verified.network.sha256}"
    assert bucket.requests.taken() == [POINTER, one.manifest, one.signature, graph]
    bucket.put(graph, b"another")
    verified.file.unlink()
    with pytest.raises(DigestError, match="is corrupt"):
        bucket.source(signed=True).load()


def test_a_moved_channel_is_followed_and_the_model_before_is_kept(bucket: Bucket) -> None:
    one = bucket.publish("one")
    source = bucket.source()
    first = source.load()
    bucket.requests.taken()
    assert source.newer(first) is None
    # As long as nothing changes, one small request is all.
    assert bucket.requests.taken() == [POINTER]
    two = bucket.publish("two")
    second = source.newer(first)
    assert second is not None
    assert (second.model.version, second.file) == (two.version, two.file)
    assert bucket.requests.taken() == [POINTER, two.manifest, two.blob]
    assert source.newer(second) is None
    assert bucket.files() == {one.file, two.file}
    bucket.registry.rollback("pose", "staging", keys=ChannelKeys(bucket.key))
    bucket.requests.taken()
    back = source.newer(second)
    assert back == first
    # It is still here, and verified again rather than downloaded.
    assert bucket.requests.taken() == [POINTER, one.manifest]
    three = bucket.publish("three")
    assert source.newer(first) is not None
    assert bucket.files() == {one.file, three.file}


def test_a_pointer_that_was_only_rewritten_changes_nothing(bucket: Bucket) -> None:
    bucket.publish("one")
    source = bucket.source()
    first = source.load()
    bucket.edit(POINTER, moved_by="grace")
    bucket.requests.taken()
    assert source.newer(first) is None
    assert source.newer(first) is None
    assert bucket.requests.taken() == [POINTER, POINTER]


def test_a_pinned_version_stays(bucket: Bucket) -> None:
    one = bucket.publish("one")
    bucket.publish("two")
    source = bucket.source(version=one.version)
    verified = source.load()
    assert verified.model.version == one.version
    assert source.newer(verified) is None
    assert POINTER not in bucket.requests.read
    with pytest.raises(AccessError, match=f"versions/{'0' * 16}/manifest.json does not exist.*HPE_VERSION"):
        bucket.source(version="0" * 16).load()


def test_a_changed_manifest_of_a_pinned_version_is_refused(bucket: Bucket) -> None:
    one, two = bucket.publish("one"), bucket.publish("two")
    bucket.put(one.manifest, bucket.get(two.manifest))
    with pytest.raises(DigestError, match=f"describes version {two.version} of 'pose'"):
        bucket.source(version=one.version).load()
    record = json.loads(bucket.get(two.manifest))
    bucket.edit(two.manifest, serving={**record["serving"], "std": [1.0, 1.0, 1.0]})
    with pytest.raises(DigestError, match="its content says"):
        bucket.source(version=two.version).load()


DAMAGES: dict[str, tuple[Callable[[Bucket, Any], object], type[HpeError], str]] = {
    "pointer no JSON": (lambda b, v: b.put(POINTER, b"{"), DigestError, "pointer .* not a JSON object"),
    "pointer a list": (lambda b, v: b.put(POINTER, b"[]"), DigestError, "pointer .* not a JSON object"),
    "pointer nested": (lambda b, v: b.put(POINTER, b"[" * 60_000), DigestError, "pointer .* not a JSON object"),
    "pointer too large": (lambda b, v: b.put(POINTER, b" " * 70_000), DigestError, "70,000 bytes, too many"),
    "schema": (lambda b, v: b.edit(POINTER, schema_version=2), DigestError, "its schema_version is not 1"),
    "schema a flag": (lambda b, v: b.edit(POINTER, schema_version=True), DigestError, "its schema_version is not 1"),
    "another model": (lambda b, v: b.edit(POINTER, name="hands"), DigestError, "its name is not 'pose'"),
    "another channel": (lambda b, v: b.edit(POINTER, channel="prod"), DigestError, "its channel is not 'staging'"),
    "version a path": (lambda b, v: b.edit(POINTER, version="../../x"), DigestError, "its version is not of the form"),
    "version a number": (lambda b, v: b.edit(POINTER, version=7), DigestError, "its version is not of the form"),
    "line end": (lambda b, v: b.edit(POINTER, version=v.version + "\n"), DigestError, "its version is not of"),
    "no digest": (lambda b, v: b.edit(POINTER, manifest_sha256=None), DigestError, "its manifest_sha256 is not"),
    "another digest": (lambda b, v: b.edit(POINTER, manifest_sha256="0" * 64), DigestError, "does not belong to it"),
    "manifest edited": (lambda b, v: b.edit(v.manifest, opset=13), DigestError, "but the channel says"),
    "manifest too large": (lambda b, v: b.put(v.manifest, b" " * 5 * 1024**2), DigestError, "bytes, too many"),
    "manifest missing": (lambda b, v: b.delete(v.manifest), AccessError, "manifest.json does not exist"),
    "signature missing": (lambda b, v: b.delete(v.signature), DigestError, "is not signed"),
    "signature damaged": (lambda b, v: b.put(v.signature, b"x"), DigestError, "is not one of Ed25519"),
    "signature too large": (lambda b, v: b.put(v.signature, b"x" * 2000), DigestError, "2,000 bytes, too many"),
    "blob damaged": (lambda b, v: b.put(v.blob, bytes(len(v.content))), DigestError, "blobs/.* is corrupt"),
    "blob longer": (lambda b, v: b.put(v.blob, v.content + b"!"), DigestError, "blobs/.* is corrupt"),
    "blob missing": (lambda b, v: b.delete(v.blob), AccessError, "blobs/.* does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_version_that_does_not_verify_is_not_served(bucket: Bucket, damage: str) -> None:
    change, error, message = DAMAGES[damage]
    one = bucket.publish("one")
    source = bucket.source(signed=True)
    first = source.load()
    two = bucket.publish("two")
    change(bucket, two)
    # At a cold start there is nothing to fall back to.
    with pytest.raises(error, match=message) as caught:
        bucket.source(signed=True).load()
    assert caught.value.hint
    with pytest.raises(error, match=message):
        source.newer(first)
    # The one that is served stays, and nothing of the other is left.
    assert bucket.files() == {one.file}


@pytest.mark.parametrize("damage", ["signature missing", "blob damaged", "manifest edited", "version a path"])
def test_a_refused_version_is_not_read_again_until_the_channel_moves(bucket: Bucket, damage: str) -> None:
    bucket.publish("one")
    source = bucket.source(signed=True)
    first = source.load()
    DAMAGES[damage][0](bucket, bucket.publish("two"))
    with pytest.raises(DigestError):
        source.newer(first)
    bucket.requests.taken()
    for _ in range(3):
        assert source.newer(first) is None
    assert bucket.requests.taken() == [POINTER] * 3
    bucket.delete(POINTER)
    three = bucket.publish("three")
    newer = source.newer(first)
    assert newer is not None
    assert newer.model.version == three.version


def test_an_unreachable_server_is_asked_again(bucket: Bucket) -> None:
    from botocore.exceptions import ClientError, EndpointConnectionError

    bucket.publish("one")
    source = bucket.source()
    first = source.load()
    two = bucket.publish("two")
    failures: list[tuple[Exception, type[HpeError], str]] = [
        (EndpointConnectionError(endpoint_url="http://x"), TransientError, "could not be reached while reading s3://"),
        (ClientError({"Error": {"Code": "SlowDown"}}, "GetObject"), TransientError, r"S3 failed .* \(SlowDown\)"),
        (ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject"), AccessError, "may not read .*s3:GetObject"),
    ]
    for failure, error, message in failures:
        bucket.requests.error = failure
        with pytest.raises(error, match=message):
            source.newer(first)
    bucket.requests.error = None
    newer = source.newer(first)
    assert newer is not None
    assert newer.model.version == two.version


def test_a_file_that_is_there_is_verified_before_it_is_used(bucket: Bucket) -> None:
    one = bucket.publish("one")
    bucket.source().load()
    bucket.requests.taken()
    bucket.source().load()
    assert one.blob not in bucket.requests.taken()
    # Of the right size, but another content: as after a crash of the machine.
    one.file.write_bytes(bytes(len(one.content)))
    torn = bucket.folder / f"{'0' * 64}.onnx.1f.part"
    torn.write_bytes(b"torn")
    bucket.source().load()
    assert one.blob in bucket.requests.taken()
    assert one.file.read_bytes() == one.content
    assert bucket.files() == {one.file}


def test_a_model_that_does_not_fit_is_not_downloaded(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    one = bucket.publish("one")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * 1024**2))
    with pytest.raises(StorageError, match=r"has room for 4,194,304.*ephemeral storage"):
        bucket.source().load()
    assert one.blob not in bucket.requests.taken()


def test_a_folder_of_somebody_else_is_not_used(bucket: Bucket, tmp_path: Path) -> None:
    bucket.publish("one")
    (tmp_path / "elsewhere").mkdir()
    bucket.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="belongs to another user"):
        bucket.source().load()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def resigned(bucket: Bucket, version: Any, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as somebody would who may write to the bucket and has the key."""
    record = json.loads(bucket.get(version.manifest))
    change(record)
    data = json.dumps(record).encode()
    bucket.put(version.manifest, data)
    bucket.put(version.signature, bucket.key.sign(data))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("sha256", "../../../../etc/cron.d/x", id="digest"),
        pytest.param("sha256", "/" + "a" * 63, id="digest of the right length"),
        pytest.param("size_bytes", -1, id="size"),
        pytest.param("size_bytes", "9", id="size as text"),
    ],
)
def test_no_manifest_can_name_another_place(bucket: Bucket, field: str, value: Any) -> None:
    one = bucket.publish("one")
    resigned(bucket, one, lambda r: next(f for f in r["files"] if f["role"] == "model").update({field: value}))
    with pytest.raises(DigestError, match=f"manifest's files.*{field}"):
        bucket.source(signed=True, version=one.version).load()
    assert not bucket.folder.exists()


def test_the_blobs_key_comes_from_its_digest(bucket: Bucket) -> None:
    one = bucket.publish("one")
    resigned(bucket, one, lambda r: [f.update(blob="../../secrets/key") for f in r["files"]])
    verified = bucket.source(signed=True, version=one.version).load()
    assert bucket.requests.taken()[-1] == one.blob
    assert bucket.files() == {verified.file} == {one.file}


def silent(connection: socket.socket) -> None:
    """Accept, and never answer."""


def dripping_head(connection: socket.socket) -> None:
    """Begin an answer, byte by byte."""
    drip(connection, b"HTTP/1.1 " + b" " * 10_000)


def dripping_body(connection: socket.socket) -> None:
    """Send an object byte by byte."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 20000\r\n\r\n')
    drip(connection, b"x" * 20_000)


def drip(connection: socket.socket, data: bytes) -> None:
    for byte in data:
        connection.sendall(bytes([byte]))
        time.sleep(0.2)


class BadServer:
    """A server that accepts every connection and answers badly, until it is closed."""

    def __init__(self, answer: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError):
            connection.recv(65536)
            self._answer(connection)

    def close(self) -> None:
        for opened in (self._listener, *self.connections):
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the address of S3."""
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    s3_client.cache_clear()
    yield lambda url: monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    s3_client.cache_clear()


def plain_source(folder: Path) -> RegistrySource:
    return RegistrySource(str(REGISTRY), "tiny", channel="staging", version=None, public_keys=(), folder=folder)


@pytest.mark.parametrize(
    ("answer", "remaining_ms", "reason"),
    [
        # Long enough for the client's own limit of 3 s, however busy the machine.
        pytest.param(silent, 18_000, "Read timeout", id="silent"),
        pytest.param(dripping_head, 12_000, None, id="head byte by byte"),
        pytest.param(dripping_body, 12_000, None, id="body byte by byte"),
    ],
)
def test_a_server_that_does_not_answer_drops_no_request(
    answer: Callable[[socket.socket], None],
    remaining_ms: int,
    reason: str | None,
    endpoint: Callable[[str], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = plain_source(tmp_path / "kept")
    model = tiny_model(tmp_path)
    # The server was well when the function started.
    source.load = lambda: model  # type: ignore[method-assign]
    service = PoseService(serving_settings(HPE_REFRESH_SECONDS="0"), source)
    server = BadServer(answer)
    endpoint(server.url)
    try:
        started = time.monotonic()
        assert ask(lambda event, _: service(event, Context(remaining_ms=remaining_ms)), {"image": PHOTO})[0] == 200
        # It keeps 8 of its seconds for the answer.
        assert 2.5 < time.monotonic() - started < remaining_ms / 1000 - 6
        assert len(server.connections) == 1
    finally:
        server.close()
    # Once the connection ends, so does the renewal.
    until = time.monotonic() + 20
    while service._renewing.locked():
        assert time.monotonic() < until
        time.sleep(0.05)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ("The model is not renewed yet." in [line["message"] for line in lines]) is (reason is None)
    (failed,) = [line for line in lines if line["message"] == "The model is not renewed."]
    assert failed["error"] == "TransientError"
    assert (reason or "s3://models/team/registry") in failed["reason"]


def test_the_client_gives_up_soon(endpoint: Callable[[str], None], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    endpoint(f"http://127.0.0.1:{port}")
    started = time.monotonic()
    with pytest.raises(TransientError, match=r"could not be reached while reading s3://models/team/registry"):
        plain_source(tmp_path / "kept").load()
    assert time.monotonic() - started < 10
