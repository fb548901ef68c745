"""A published version in a real MLflow registry: its server as a process, the registry in an embedded S3 server."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from hpe_tasks.cli.app import app
from hpe_tasks.errors import AccessError, ConfigError, TransientError
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.release.mlflow_registry import alias_of, figures
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records
from support.mlflow_server import free_port, mlflow_server
from support.receivers import http_receiver

pytestmark = [pytest.mark.integration, pytest.mark.long]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow"), free_port()) as address:
        yield address


class Published:
    """Two versions of a model in a registry of their own."""

    def __init__(self, bucket: Any, folder: Path) -> None:
        self.address = f"s3://{bucket.bucket}/registry"
        self.registry = ModelRegistry(bucket.client, S3Location.parse(self.address))
        self.manifests, self.files = [], []
        for content, ap in (("one", 0.6), ("two", 0.65)):
            files = records.write_files(folder / content, content)
            files["checkpoint"] = folder / content / "weights.safetensors"
            files["checkpoint"].write_bytes(b"weights")
            manifest = records.manifest(files, ap=ap, speed=records.latency())
            self.registry.store(manifest, files)
            self.manifests.append(manifest)
            self.files.append(files)

    def promote(self, place: int, channel: str) -> None:
        self.registry.promote("pose", self.manifests[place].version, channel)


@pytest.fixture
def published(s3_bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    for name, value in s3_bucket.server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    return Published(s3_bucket, tmp_path)


def export(published: Published, named: str, *more: str) -> Any:
    words = ["models", "export-mlflow", named, "--registry", published.address, "--json", *more]
    done = CliRunner().invoke(app, words, catch_exceptions=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout)


def test_a_version_is_registered_with_files_figures_and_aliases(
    server: str, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.replace("http://", "http://user:pass-word@"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "pose models")
    published.promote(0, "staging")
    published.promote(0, "v1.production")
    first = published.manifests[0]
    told = export(published, "pose@staging")
    assert told | {"run_id": ""} == {
        "name": "pose", "version": first.version, "mlflow_version": "1", "run_id": "", "created": True,
        "aliases": ["staging", "v1-production"],
    }  # fmt: skip
    client = MlflowClient(tracking_uri=server)
    kept = client.get_model_version_by_alias("pose", "staging")
    assert str(kept.version) == "1"
    assert (kept.tags["hpe.version"], kept.tags["hpe.registry"]) == (first.version, published.address)
    assert kept.tags["hpe.manifest_sha256"] == hashlib.sha256(first.to_bytes()).hexdigest()
    run = client.get_run(told["run_id"])
    assert (run.info.status, run.data.metrics) == ("FINISHED", pytest.approx(figures(first)))
    assert run.data.params["recipe"] == first.recipe.name
    files = Path(client.download_artifacts(told["run_id"], "model", str(tmp_path)))
    assert {file.name for file in files.iterdir()} == {"README.md", "manifest.json", "model.onnx", "encodings"}
    assert (files / "model.onnx").read_bytes() == published.files[0]["model"].read_bytes()
    assert (files / "manifest.json").read_bytes() == first.to_bytes()
    assert (files / "README.md").read_text().startswith("---\nlicense: apache-2.0\n")
    assert "pass-word" not in caplog.text + json.dumps(told)

    # The same again makes nothing new; a channel that has moved takes its alias along.
    published.promote(1, "staging")
    later = export(published, "pose@staging", "--checkpoint")
    assert (later["mlflow_version"], later["created"], later["aliases"]) == ("2", True, ["staging"])
    again = export(published, first.version)
    assert (again["mlflow_version"], again["created"], again["aliases"]) == ("1", False, ["v1-production"])
    assert str(client.get_model_version_by_alias("pose", "staging").version) == "2"
    assert str(client.get_model_version_by_alias("pose", "v1-production").version) == "1"
    assert any(file.path == "model/checkpoint" for file in client.list_artifacts(later["run_id"], "model"))


def test_a_server_that_is_not_there_or_refuses_is_an_error_without_secrets(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.promote(0, "staging")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        export(published, "pose")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:pass-word@127.0.0.1:{free_port()}")
    with pytest.raises(TransientError, match="does not take the version") as gone:
        export(published, "pose")
    with http_receiver(403) as refusing:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing.address.replace("http://", "http://user:pass-word@"))
        with pytest.raises(AccessError, match="refuses the version") as refused:
            export(published, "pose")
    assert "pass-word" not in f"{gone.value} {refused.value}"


@pytest.mark.parametrize(
    ("channel", "alias"),
    [
        pytest.param("staging", "staging", id="as it is"),
        pytest.param("eu.west_1", "eu-west_1", id="dots"),
        pytest.param("latest", "channel-latest", id="what means something"),
        pytest.param("v12", "channel-v12", id="like a number"),
    ],
)
def test_channels_have_names_that_mlflow_takes(channel: str, alias: str) -> None:
    assert alias_of(channel) == alias
