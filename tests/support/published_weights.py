"""A version in a bucket that a real, very small network came from, with its weights beside it or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.models import build_model
from hpe_tasks.models.training_record import TRAINING_KEY
from hpe_tasks.records.network import TensorSpec
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.files import sha256_file
from hpe_tasks.storage.s3 import S3Location
from support import sample_records as records

LOCATION = S3Location("models", "team/registry")

SMALL = ModelConfig(checkpoint="unused", input_width=64, input_height=64, width_multiplier=0.125)


def small_weights(file: Path) -> Path:
    """Weights of the network, which say how they were trained."""
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {"training": {"width_multiplier": 0.125, "sigma": 1.0, "learning_rate": 0.01}}
    save_file(build_model(SMALL).state_dict(), file, metadata={TRAINING_KEY: json.dumps(about)})
    return file


def version_of_weights(
    folder: Path, weights: Path, *, beside: bool = True, source: str = "weights.safetensors", **changes: Any
) -> tuple[ModelManifest, dict[str, Path]]:
    """A manifest that names these weights, and its files.

    Args:
        folder: Takes the files.
        weights: Where the version came from.
        beside: Whether they are published.
        source: Where the run had them from.
        changes: Of `sample_records.manifest`.
    """
    files = records.write_files(folder) | ({"checkpoint": weights} if beside else {})
    heatmaps = (TensorSpec(name="heatmaps", dtype="float32", shape=("batch", 17, 16, 16)),)
    made = records.manifest(files, config=records.run_config(model=SMALL), outputs=heatmaps, **changes)
    origin = {"checkpoint_source": source, "checkpoint_sha256": sha256_file(weights)}
    return made.model_copy(update={"provenance": made.provenance.model_copy(update=origin)}), files


def publish_weights(client: Any, folder: Path, weights: Path, **changes: Any) -> ModelManifest:
    """Store such a version as `pose`, and let channel `staging` serve it."""
    manifest, files = version_of_weights(folder, weights, **changes)
    registry = ModelRegistry(client, LOCATION)
    published = registry.store(manifest, files)
    registry.promote(manifest.name, published.version, "staging", published=published)
    return manifest
