"""Faults of what is published and served: other bytes, no signature, another file, or told wrongly how to be fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from hpe_tasks.contract.keys import blob_key
from hpe_tasks.errors import ConfigError, DigestError
from hpe_tasks.pipeline import steps
from hpe_tasks.registry.manifest import MODEL_ROLE, ModelManifest, version_of
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.release.in_process import FunctionInProcess
from hpe_tasks.release.smoke_test import SmokeTestError, ask_for_golden
from hpe_tasks.selftest.bench import Bench
from hpe_tasks.selftest.fault import Ruling, refusal
from hpe_tasks.selftest.measured_file import described
from hpe_tasks.storage.s3 import S3Location

_PLAIN = {"destination.smoke_test": False}
_SOME_KEY = bytes(32)


@dataclass(frozen=True)
class Stored:
    """The healthy version as it lies in the registry, with its files on this machine."""

    manifest: ModelManifest
    data: bytes
    model: Path
    images: Mapping[str, Path]


def stored_version(bench: Bench) -> Stored:
    """What the healthy run has published, fetched back."""

    def fetch() -> Stored:
        run = bench.healthy
        published = run.result(steps.publish)
        registry = ModelRegistry(run.s3(), S3Location.parse(run.config.destination.registry))
        found = registry.verify(published.name, published.version, sha256=published.manifest.sha256)
        folder = bench.new_folder("stored")
        roles = (MODEL_ROLE, *(golden.file for golden in found.manifest.golden))
        files = {role: registry.download(found.manifest, role, folder / role) for role in roles}
        model = files.pop(MODEL_ROLE)
        return Stored(found.manifest, found.data, model, files)

    return bench.shared("stored", fetch)


def serve_golden(bench: Bench, manifest: ModelManifest) -> None:
    """Have the function serve a version, and compare what it finds in the golden images; raises as these do."""
    stored = stored_version(bench)
    function = FunctionInProcess(bench.new_folder("function") / "model", manifest.to_bytes(), stored.model)
    ask_for_golden(function.invoke, manifest, stored.images)


def corrupted_blob(bench: Bench) -> Ruling:
    """Between publishing and promotion the model's blob is overwritten by other bytes of the same length."""
    run = bench.planted_run("corrupted", steps.publish, settings=_PLAIN)
    steps.publish(run)
    where = S3Location.parse(run.config.destination.registry)
    sha256 = run.result(steps.export_onnx).model.sha256
    key = (where / blob_key(sha256)).key
    client = run.s3()
    data = bytearray(client.get_object(Bucket=where.bucket, Key=key)["Body"].read())
    data[len(data) // 2] ^= 1
    client.put_object(Bucket=where.bucket, Key=key, Body=bytes(data))
    return refusal(lambda: steps.promote(run), DigestError, f"{sha256} is damaged or missing")


def unsigned_publication(bench: Bench) -> Ruling:
    """A signature is required, and there is no key."""
    run = bench.planted_run("unsigned", steps.publish, settings={**_PLAIN, "destination.require_signature": True})
    return refusal(lambda: steps.publish(run), ConfigError, "There is no signing key")


def unsigned_manifest(bench: Bench) -> Ruling:
    """The function demands a signature, and the manifest has none."""
    stored = stored_version(bench)
    folder = bench.new_folder("function") / "model"

    def start() -> FunctionInProcess:
        return FunctionInProcess(folder, stored.data, stored.model, public_key=_SOME_KEY)

    return refusal(start, DigestError, "is not signed")


def other_model_in_package(bench: Bench) -> Ruling:
    """The package holds another file than its manifest describes."""
    stored = stored_version(bench)
    changed, folder = _resaved(bench, stored.model), bench.new_folder("function") / "model"
    return refusal(
        lambda: FunctionInProcess(folder, stored.data, changed), DigestError, "is not the model that its manifest"
    )


def unmeasured_file(bench: Bench) -> Ruling:
    """The file was lost after it was measured, and its export, made again, came out with other bytes."""
    exported = described(bench, _resaved(bench, bench.exported_file()))
    run = bench.planted_run("unmeasured", steps.publish, settings=_PLAIN, instead={steps.export_onnx: exported})
    return refusal(lambda: steps.publish(run), DigestError, "the one that was measured")


def function_feeds_bgr(bench: Bench) -> Ruling:
    """The manifest tells the function to feed blue, green, red; the model was measured on red, green, blue."""
    return _served_wrongly(bench, channel_order="bgr")


def function_normalizes_wrongly(bench: Bench) -> Ruling:
    """The manifest tells the function another mean and std than the model was measured with."""
    return _served_wrongly(bench, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))


def _served_wrongly(bench: Bench, **serving: Any) -> Ruling:
    manifest = stored_version(bench).manifest
    told = manifest.serving.model_copy(update=serving)
    version = version_of(manifest.file(MODEL_ROLE).sha256, told, manifest.onnx.fingerprint, manifest.gate)
    wrong = manifest.model_copy(update={"serving": told, "version": version})
    return refusal(lambda: serve_golden(bench, wrong), SmokeTestError, "with an OKS of")


def _resaved(bench: Bench, file: Path) -> Path:
    """The same network in another file."""
    model = onnx.load(file)
    model.doc_string = "exported again"
    out = bench.new_folder("resaved") / "model.onnx"
    onnx.save(model, out)
    return out
