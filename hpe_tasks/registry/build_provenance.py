"""How a version was made, in the shape of SLSA's provenance v1: what went in by digest, what was asked, who made it.

The names are those of the predicate at https://slsa.dev/spec/v1.0/provenance, so that tools for it can read the
manifest's `build`. What is claimed is that the holder of the signing key says so: the builder is whoever runs the
pipeline, and no platform that keeps its users from changing what it records (SLSA's build level 1; with a signed
manifest nobody else can have changed it since).

Nothing here counts for the version: the same content made again, at another time or from another run, is the same
version, and its manifest keeps the provenance of the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from hpe_tasks.config.addresses import without_credentials
from hpe_tasks.config.base import Frozen
from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.canonical import canonical_json
from hpe_tasks.records.evaluation import ProtocolFingerprint
from hpe_tasks.records.inputs import FetchedCheckpoint, FetchedDataset
from hpe_tasks.records.network import QuantizedModel

BUILD_TYPE = "urn:hpe-tasks:build:requantize:1"
BUILDER = "urn:hpe-tasks:pipeline"

CHECKPOINT, DATASET, BOXES = "checkpoint", "dataset", "detector-boxes"
CALIBRATION_IMAGES, EVALUATION_IMAGES = "calibration-images", "evaluation-images"
SOURCE, LOCK, ENVIRONMENT = "source", "lock", "environment"

CONTENT, IDS, DISTRIBUTIONS = "hpeContent", "hpeImageIds", "hpeDistributions"
"""Digests that are no SHA-256 of one file, and so have names of their own: over the files of a data set, over the ids
of images, over the names and versions of installed distributions."""


class _Slsa(Frozen):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True
    )


class ResourceDescriptor(_Slsa):
    """One input.

    Attributes:
        uri: Where it came from, without credentials; None where it has no address.
        digest: By algorithm: `sha256` and `gitCommit`, or one of those above.
    """

    name: str
    uri: str | None = None
    digest: dict[str, str]


class BuildDefinition(_Slsa):
    """What was asked, and everything that it was made of.

    Attributes:
        external_parameters: The run's configuration, without credentials.
    """

    build_type: str = BUILD_TYPE
    external_parameters: dict[str, Any]
    resolved_dependencies: tuple[ResourceDescriptor, ...]


class Builder(_Slsa):
    """What made it, by the versions of its parts."""

    id: str = BUILDER
    version: dict[str, str]


class BuildMetadata(_Slsa):
    """Which run made it, and when."""

    invocation_id: str
    started_on: datetime | None
    finished_on: datetime


class RunDetails(_Slsa):
    """Who made it."""

    builder: Builder
    metadata: BuildMetadata


class BuildProvenance(_Slsa):
    """The predicate."""

    build_definition: BuildDefinition
    run_details: RunDetails

    def dependency(self, name: str) -> ResourceDescriptor | None:
        """The input of this name."""
        found = (one for one in self.build_definition.resolved_dependencies if one.name == name)
        return next(found, None)


class BuildEnvironment(Frozen):
    """Where a version is made.

    Attributes:
        git_commit: Commit of this project's code; None outside of a checkout.
        lock_sha256: Of the hashed lock that was installed; None where it is not at hand.
        distributions: Names and versions of what is installed.
        python: Version of the interpreter.
    """

    git_commit: str | None = None
    lock_sha256: str | None = None
    distributions: dict[str, str] = Field(default_factory=dict)
    python: str


def describe_build(
    config: RunConfig,
    environment: BuildEnvironment,
    *,
    dataset: FetchedDataset,
    checkpoint: FetchedCheckpoint,
    quantized: QuantizedModel,
    protocol: ProtocolFingerprint,
    tool_versions: dict[str, str],
    run: str,
    started: datetime | None,
    finished: datetime,
) -> BuildProvenance:
    """The provenance of a run's version, from what the run's steps have recorded."""
    versions = {"python": environment.python, **tool_versions}
    if own := environment.distributions.get("hpe-tasks"):
        versions["hpe-tasks"] = own
    return BuildProvenance(
        build_definition=BuildDefinition(
            external_parameters=without_credentials(config).model_dump(mode="json"),
            resolved_dependencies=tuple(_inputs(environment, dataset, checkpoint, quantized, protocol)),
        ),
        run_details=RunDetails(
            builder=Builder(version=versions),
            metadata=BuildMetadata(invocation_id=run, started_on=started, finished_on=finished),
        ),
    )


def _inputs(
    environment: BuildEnvironment,
    dataset: FetchedDataset,
    checkpoint: FetchedCheckpoint,
    quantized: QuantizedModel,
    protocol: ProtocolFingerprint,
) -> Iterator[ResourceDescriptor]:
    yield ResourceDescriptor(name=CHECKPOINT, uri=checkpoint.source, digest={"sha256": checkpoint.file.sha256})
    yield ResourceDescriptor(name=DATASET, uri=dataset.source, digest={CONTENT: dataset.digest})
    if dataset.boxes_sha256 is not None:
        yield ResourceDescriptor(name=BOXES, digest={"sha256": dataset.boxes_sha256})
    drawn = ids_digest(list(quantized.calibration_image_ids))
    yield ResourceDescriptor(name=CALIBRATION_IMAGES, digest={IDS: drawn})
    yield ResourceDescriptor(name=EVALUATION_IMAGES, digest={IDS: protocol.image_ids_digest})
    if environment.git_commit is not None:
        yield ResourceDescriptor(name=SOURCE, digest={"gitCommit": environment.git_commit})
    if environment.lock_sha256 is not None:
        yield ResourceDescriptor(name=LOCK, digest={"sha256": environment.lock_sha256})
    if environment.distributions:
        listed = hashlib.sha256(canonical_json(environment.distributions)).hexdigest()
        yield ResourceDescriptor(name=ENVIRONMENT, digest={DISTRIBUTIONS: listed})


def ids_digest(ids: list[int | str]) -> str:
    """SHA-256 over ids of images in their order."""
    return hashlib.sha256(canonical_json(ids)).hexdigest()
