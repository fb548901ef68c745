"""A published version of which everything is known that a watch compares, and the run that would make it again."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.inputs import FetchedCheckpoint, FetchedDataset
from hpe_tasks.records.network import NormalForm, QuantizedModel
from hpe_tasks.records.watch import MadeOf
from hpe_tasks.registry.build_provenance import BuildEnvironment, describe_build
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry
from support import sample_records as records

AT = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
REGISTRY = "s3://models/team/registry"


def watched_config(folder: Path, **changes: Any) -> RunConfig:
    """A run on a checkpoint and a few drawn people in `folder`, which are made where they are not there yet."""
    checkpoint, data = folder / "a.safetensors", folder / "data"
    if not data.exists():
        make_sample(data, SampleSpec(train=1, calibration=1, val=1, width=200, height=150))
        checkpoint.write_bytes(b"weights")
    given = {
        "model.checkpoint": str(checkpoint),
        "dataset.source": str(data),
        "destination.registry": REGISTRY,
        "destination.name": "pose",
    }
    return load_config("sample", overrides=given | changes)


def version_made_of(config: RunConfig, made: MadeOf, folder: Path) -> tuple[ModelManifest, dict[str, Path]]:
    """The manifest of a run with this configuration, which was made of this, and its files."""
    files = records.write_files(folder)
    plain = records.manifest(files, config=config)
    artifact = Artifact(uri="file:///c.safetensors", sha256=made.checkpoint_sha256, size_bytes=1)
    build = describe_build(
        config,
        BuildEnvironment(python="3.11.7"),
        dataset=FetchedDataset(
            source="data", digest=made.dataset_digest, num_files=1, size_bytes=1, boxes_sha256=made.boxes_sha256
        ),
        checkpoint=FetchedCheckpoint(source="a.safetensors", file=artifact),
        quantized=QuantizedModel(
            recipe=config.recipe,
            model=artifact,
            encodings=artifact,
            calibration_image_ids=(1,),
            calibration_persons=1,
            device="cpu",
            tool_versions={},
            normal_form=NormalForm(applied=True, nodes_before=2, nodes_after=1, largest_difference=0.0),
        ),
        protocol=plain.onnx.fingerprint,
        tool_versions=made.tools,
        run="run-1",
        started=AT,
        finished=AT,
    )
    known = {
        "checkpoint_sha256": made.checkpoint_sha256,
        "dataset_digest": made.dataset_digest,
        "tool_versions": made.tools,
    }
    provenance = plain.provenance.model_copy(update=known)
    return plain.model_copy(update={"provenance": provenance, "build": build}), files


def serve(registry: ModelRegistry, version: tuple[ModelManifest, dict[str, Path]]) -> str:
    """Publish a version and let the channel `staging` serve it; returns its name."""
    stored = registry.store(*version)
    registry.promote(version[0].name, stored.version, "staging")
    return stored.version
