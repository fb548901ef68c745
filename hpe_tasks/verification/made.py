"""Whether a manifest's provenance agrees with the rest of it."""

from __future__ import annotations

from collections.abc import Iterator

from hpe_tasks.errors import DigestError
from hpe_tasks.registry.build_provenance import (
    BOXES,
    BUILD_TYPE,
    CALIBRATION_IMAGES,
    CHECKPOINT,
    CONTENT,
    DATASET,
    EVALUATION_IMAGES,
    IDS,
    SOURCE,
    BuildProvenance,
)
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.verification.findings import NotMadeError
from hpe_tasks.verification.judged import configuration_of


def provenance_found(manifest: ModelManifest) -> str:
    """Hold the provenance against the manifest; raises DigestError, naming what differs."""
    build = manifest.build
    if build is None:
        raise NotMadeError("the manifest has none: it is older than that")
    differing = [what for what, agrees in _comparisons(manifest, build) if not agrees]
    if differing:
        raise DigestError(f"it says something else than the manifest: {', '.join(differing)}")
    inputs = build.build_definition.resolved_dependencies
    return f"{len(inputs)} inputs by digest, run {build.run_details.metadata.invocation_id}"


def asked_found(manifest: ModelManifest) -> str:
    """Hold the configuration against what was made of it; raises DigestError, naming what differs."""
    config, provenance = configuration_of(manifest), manifest.provenance
    searched = config.recipe.search != "off"
    comparisons = {
        "destination.name": config.destination.name == manifest.name,
        "destination.processors": config.destination.processors == manifest.serving.processors,
        "preset": config.preset == provenance.preset,
        "seed": config.seed == provenance.calibration.seed,
        "dataset.calibration_split": config.dataset.calibration_split == provenance.calibration.split,
        "dataset.evaluation_split": config.dataset.evaluation_split == manifest.onnx.fingerprint.split,
        "evaluation.flip_test": config.evaluation.flip_test == manifest.onnx.fingerprint.flip_test,
        "model.architecture": config.model.architecture == manifest.serving.architecture,
        "model.codec": config.model.codec == manifest.serving.codec,
        "recipe": searched or config.recipe == manifest.recipe,
    }
    differing = [name for name, agrees in comparisons.items() if not agrees]
    if differing:
        raise DigestError(f"the manifest is of something else than was asked: {', '.join(differing)}")
    return f"preset {config.preset}" + (", its recipe was searched" if searched else "")


def _comparisons(manifest: ModelManifest, build: BuildProvenance) -> Iterator[tuple[str, bool]]:
    told, details = manifest.provenance, build.run_details
    yield "buildType", build.build_definition.build_type == BUILD_TYPE
    digests = {
        CHECKPOINT: ("sha256", told.checkpoint_sha256),
        DATASET: (CONTENT, told.dataset_digest),
        CALIBRATION_IMAGES: (IDS, told.calibration.image_ids_digest),
        EVALUATION_IMAGES: (IDS, manifest.onnx.fingerprint.image_ids_digest),
        BOXES: ("sha256", manifest.onnx.fingerprint.boxes_digest),
        SOURCE: ("gitCommit", told.git_commit),
    }
    for name, (algorithm, digest) in digests.items():
        found = build.dependency(name)
        yield name, (None if found is None else found.digest.get(algorithm)) == digest
    names = [one.name for one in build.build_definition.resolved_dependencies]
    yield "each input once", len(set(names)) == len(names)
    yield "invocationId", details.metadata.invocation_id == told.run
    yield "finishedOn", details.metadata.finished_on == told.created_at
    started = details.metadata.started_on
    yield "startedOn", started is None or started <= details.metadata.finished_on
    versions = details.builder.version
    yield "versions", all(versions.get(tool) == version for tool, version in told.tool_versions.items())
