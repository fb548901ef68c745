"""What a retraining is tried with: a network that is taught a little more, and versions that came from checkpoints."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.pipeline.provenance import build_environment
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.inputs import FetchedCheckpoint, FetchedDataset
from hpe_tasks.records.network import QuantizedModel
from hpe_tasks.registry.build_provenance import describe_build
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def retraining_settings(folder: Path) -> dict[str, Any]:
    """Make drawn people in `folder`; settings of a training of one short epoch, from the sample's checkpoint."""
    from hpe_tasks.data.sample import SampleSpec, make_sample

    make_sample(folder / "data", SampleSpec(train=1, calibration=3, val=6, width=200, height=150))
    return {
        "preset": "sample",
        "dataset.source": str(folder / "data"),
        "dataset.min_persons": 1,
        "recipe.calibration_images": 3,
        "gate.resamples": 200,
        "training.epochs": 1,
        "training.batch_size": 4,
        "training.learning_rate": 1e-6,
        "training.device": "cpu",
        "destination.smoke_test": False,
    }


def config_of(settings: dict[str, Any], **changes: Any) -> RunConfig:
    """The configuration of these settings; `changes` with `__` for a dot."""
    overrides = settings | {key.replace("__", "."): value for key, value in changes.items()}
    return load_config(overrides.pop("preset"), overrides=overrides)


def serve_version(s3: S3Client, config: RunConfig, folder: Path, source: str, checkpoint: Path) -> str:
    """Let the configured channel serve a version that says to have come from this checkpoint; returns the version."""
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    files = records.write_files(folder, sha256)
    manifest = records.manifest(files, config=config)
    fetched = FetchedCheckpoint(source=source, file=Artifact(uri=source, sha256=sha256, size_bytes=1))
    build = describe_build(
        config,
        build_environment(),
        dataset=FetchedDataset(source="sample", digest="d" * 64, num_files=1, size_bytes=1),
        checkpoint=fetched,
        quantized=QuantizedModel(
            recipe=config.recipe,
            model=records.artifact(files["model"]),
            encodings=records.artifact(files["encodings"]),
            calibration_image_ids=(1,),
            calibration_persons=1,
            device="cpu",
            tool_versions={},
        ),
        protocol=manifest.onnx.fingerprint,
        tool_versions={},
        run="earlier",
        started=None,
        finished=datetime(2026, 11, 20, tzinfo=UTC),
    )
    came = manifest.provenance.model_copy(update={"checkpoint_source": source, "checkpoint_sha256": sha256})
    manifest = manifest.model_copy(update={"provenance": came, "build": build})
    registry = ModelRegistry(s3, S3Location.parse(config.destination.registry))
    published = registry.store(manifest, files)
    registry.promote(published.name, published.version, config.destination.channel)
    return published.version
