"""A published version in an MLflow model registry: for teams whose models are looked up there.

The registry in S3 stays what counts: what is served, signed and verified. MLflow gets a copy of the files, the figures
and the model card, and aliases for the channels that serve the version.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hpe_tasks.config.addresses import redacted, redacted_text
from hpe_tasks.contract.names import MANIFEST
from hpe_tasks.errors import AccessError, ConfigError, HpeError, TransientError, shortened
from hpe_tasks.gate.accuracy import metric_named
from hpe_tasks.registry.manifest import CHECKPOINT_ROLE, FP32_ROLE, MODEL_ROLE, ModelManifest
from hpe_tasks.report.model_card import model_card

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from hpe_tasks.registry.publishing import ModelRegistry

EXPERIMENT = "hpe_tasks"
"""Where MLFLOW_EXPERIMENT_NAME names none."""

VERSION_TAG, MANIFEST_TAG, REGISTRY_TAG = "hpe.version", "hpe.manifest_sha256", "hpe.registry"

_FILES = "model"
_USUAL = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Exported:
    """A version as MLflow has it.

    Attributes:
        mlflow_version: Its number there.
        created: False when it was there before.
        aliases: Of the channels that serve it now.
    """

    name: str
    version: str
    mlflow_version: str
    run_id: str
    created: bool
    aliases: tuple[str, ...]


def tracking_server(environment: Mapping[str, str]) -> str:
    """The MLflow server that variables name.

    Raises:
        ConfigError: They name none.
    """
    server = environment.get("MLFLOW_TRACKING_URI", "").strip()
    if not server:
        raise ConfigError(
            "No MLflow server is configured.", hint="Set MLFLOW_TRACKING_URI, such as http://mlflow.example:5000."
        )
    return server


def export_version(
    registry: ModelRegistry,
    manifest: ModelManifest,
    *,
    manifest_sha256: str,
    channels: Sequence[str],
    where: str,
    server: str,
    experiment: str = EXPERIMENT,
    checkpoint: bool = False,
) -> Exported:
    """Register a version in MLflow, with its files; one that is there already gets its aliases anew, and nothing else.

    Args:
        registry: Where the files come from; each is verified by its digest.
        manifest: The version.
        manifest_sha256: Of the manifest's bytes.
        channels: Channels that serve it now; each becomes an alias, and leaves other versions.
        where: Address of the registry.
        server: As MLFLOW_TRACKING_URI has it; user and password in it are shown nowhere.
        experiment: Whose run holds the files.
        checkpoint: Send the weights that it was made of as well.

    Raises:
        AccessError: MLflow refuses it.
        TransientError: MLflow cannot be reached.
    """
    for name, value in _USUAL.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    with _told_as_ours(server):
        client = MlflowClient(tracking_uri=server)
        _require_model(client, manifest)
        known = client.search_model_versions(
            f"name = '{manifest.name}' and tags.`{VERSION_TAG}` = '{manifest.version}'"
        )
        found = max(known, key=lambda one: int(one.version), default=None)
        if found is None:
            run = _run_with_files(client, registry, manifest, channels, experiment, where, checkpoint=checkpoint)
            tags = {VERSION_TAG: manifest.version, MANIFEST_TAG: manifest_sha256, REGISTRY_TAG: str(redacted(where))}
            made = client.create_model_version(
                manifest.name,
                source=f"{client.get_run(run).info.artifact_uri}/{_FILES}",
                run_id=run,
                tags=tags,
                description=_summary(manifest),
            )
            number, created = str(made.version), True
        else:
            number, run, created = str(found.version), str(found.run_id), False
        aliases = tuple(alias_of(channel) for channel in channels)
        for alias in aliases:
            client.set_registered_model_alias(manifest.name, alias, number)
        return Exported(manifest.name, manifest.version, number, run, created, aliases)


def alias_of(channel: str) -> str:
    """A channel's name as MLflow takes it: without dots, and neither `latest` nor like `v1`, which mean something."""
    name = re.sub(r"[^\w-]", "-", channel)
    return f"channel-{name}" if name.lower() == "latest" or re.fullmatch(r"[vV]\d+", name) else name


def _require_model(client: MlflowClient, manifest: ModelManifest) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(manifest.name, description="Human pose estimation in int8; see each version.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _run_with_files(
    client: MlflowClient,
    registry: ModelRegistry,
    manifest: ModelManifest,
    channels: Sequence[str],
    experiment: str,
    where: str,
    *,
    checkpoint: bool,
) -> str:
    """A finished run with figures, settings and files; its id."""
    found = client.get_experiment_by_name(experiment)
    number = client.create_experiment(experiment) if found is None else found.experiment_id
    tags = {VERSION_TAG: manifest.version, REGISTRY_TAG: str(redacted(where))}
    run = str(client.create_run(number, run_name=f"{manifest.name} {manifest.version}", tags=tags).info.run_id)
    status = "FAILED"
    try:
        _log_figures(client, run, manifest)
        with tempfile.TemporaryDirectory(prefix="hpe-mlflow-") as name:
            folder = Path(name)
            (folder / "README.md").write_text(model_card(manifest, channels=channels), encoding="utf-8")
            (folder / MANIFEST).write_bytes(manifest.to_bytes())
            for file in manifest.files:
                if checkpoint or file.role not in (CHECKPOINT_ROLE, FP32_ROLE):
                    registry.download(manifest, file.role, folder / _file_name(file.role))
            client.log_artifacts(run, str(folder), artifact_path=_FILES)
        status = "FINISHED"
    finally:
        # Not by `set_terminated`, which prints the server's address with its password.
        client.update_run(run, status=status)
    return run


def _log_figures(client: MlflowClient, run: str, manifest: ModelManifest) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    params = {"architecture": manifest.serving.architecture, "recipe": manifest.recipe.name}
    params |= {"preset": manifest.provenance.preset, "checkpoint_sha256": manifest.provenance.checkpoint_sha256}
    params |= {"dataset_digest": manifest.provenance.dataset_digest, "split": manifest.onnx.fingerprint.split}
    client.log_batch(
        run,
        metrics=[Metric(name, value, now, 0) for name, value in figures(manifest).items()],
        params=[Param(name, value) for name, value in params.items() if value],
    )


def figures(manifest: ModelManifest) -> dict[str, float]:
    """The manifest's figures by the names that MLflow gets: `int8/ap`, `fp32/ap`, `size_bytes` and others."""
    metric = metric_named(manifest.onnx.fingerprint.metric)
    values: dict[str, float | None] = {}
    for form, measured in (("fp32", manifest.fp32), ("quantsim", manifest.quantsim), ("int8", manifest.onnx)):
        values |= {f"{form}/{column.field}": getattr(measured.stats, column.field, None) for column in metric.columns}
    values |= {"size_bytes": manifest.file(MODEL_ROLE).size_bytes, "fp32_size_bytes": manifest.fp32_size_bytes}
    values["int8_mac_share"] = manifest.placement.int8_mac_share
    if manifest.latency is not None:
        one = manifest.latency.one_thread
        values |= {"latency_ms": one.onnx.median_ms, "fp32_latency_ms": one.fp32.median_ms, "speed_up": one.ratio}
    return {name: float(value) for name, value in values.items() if value is not None}


def _file_name(role: str) -> str:
    return {MODEL_ROLE: "model.onnx", FP32_ROLE: "fp32.onnx"}.get(role, role)


def _summary(manifest: ModelManifest) -> str:
    metric = metric_named(manifest.onnx.fingerprint.metric)
    before, after = (metric.text(form.stats.accuracy) for form in (manifest.fp32, manifest.onnx))
    return f"int8 {metric.name} {after}, FP32 {before}; version {manifest.version} of the registry in S3"


@contextmanager
def _told_as_ours(server: str) -> Iterator[None]:
    """MLflow's errors as ours, without the server's credentials, which they may quote."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except HpeError:
        raise
    except MlflowException as error:
        told = _without_secrets(str(error), server)
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        if 400 <= status < 500 and status not in {408, 429}:
            raise AccessError(f"MLflow at {redacted(server)} refuses the version: {told}") from None
        raise TransientError(f"MLflow at {redacted(server)} does not take the version: {told}") from None


def _without_secrets(text: Any, server: str) -> str:
    parts = urlsplit(server)
    for secret in (parts.query, parts.password):
        if secret:
            text = str(text).replace(secret, "…")
    return shortened(redacted_text(str(text).strip()))
