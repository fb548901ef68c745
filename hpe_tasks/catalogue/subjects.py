"""What can be compared: a published version, by its manifest; a run, by the records of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from hpe_tasks.catalogue.summaries import speed_summary
from hpe_tasks.config.run import RunConfig
from hpe_tasks.records.evaluation import ProtocolFingerprint, Stats
from hpe_tasks.records.execution import LatencyComparison
from hpe_tasks.records.gate import GateCheck
from hpe_tasks.registry.manifest import MODEL_ROLE, ModelManifest
from hpe_tasks.report.records import RunRecords


@dataclass(frozen=True)
class ComparedModel:
    """One column of a comparison; what it does not say is None or empty.

    Attributes:
        name: What it is called.
        fp32: Statistics before quantization.
        onnx: Of the exported file.
        by_joint: The judged figure of each joint with the exported file.
        size_ratio: Its size as a share of FP32's.
        int8_ms: Median of the exported file with one thread.
        speed_up: How many times as fast as FP32.
        settings: The run's configuration, but for the recipe; None where a manifest does not say it.
        protocol: How accuracy was measured; empty where it was not.
    """

    name: str
    fp32: Stats | None = None
    onnx: Stats | None = None
    by_joint: Mapping[str, float | None] = field(default_factory=dict)
    size_bytes: int | None = None
    fp32_size_bytes: int | None = None
    int8_ms: float | None = None
    fp32_ms: float | None = None
    speed_up: float | None = None
    processor: str | None = None
    int8_share: float | None = None
    checks: tuple[GateCheck, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size_ratio(self) -> float | None:
        """The file's size as a share of FP32's."""
        return self.size_bytes / self.fp32_size_bytes if self.size_bytes and self.fp32_size_bytes else None


def subject_of_version(manifest: ModelManifest, *, name: str = "") -> ComparedModel:
    """A published version; by default called `MODEL@VERSION`."""
    origin = manifest.provenance
    asked = None if manifest.build is None else manifest.build.build_definition.external_parameters
    return ComparedModel(
        name=name or f"{manifest.name}@{manifest.version}",
        fp32=manifest.fp32.stats,
        onnx=manifest.onnx.stats,
        by_joint=manifest.onnx.by_joint,
        size_bytes=manifest.file(MODEL_ROLE).size_bytes,
        fp32_size_bytes=manifest.fp32_size_bytes,
        **_speed(manifest.latency),
        int8_share=manifest.placement.int8_mac_share,
        checks=manifest.gate.checks,
        recipe=manifest.recipe.model_dump(mode="json"),
        settings=None if asked is None else _without_recipe(asked),
        protocol=_protocol(manifest.onnx.fingerprint),
        origin={
            "published": f"{origin.created_at:%Y-%m-%d %H:%M} UTC",
            "published by": origin.created_by,
            "run": origin.run,
            "checkpoint": origin.checkpoint_source,
            "checkpoint SHA-256": origin.checkpoint_sha256,
            "data": origin.dataset_source,
            "data digest": origin.dataset_digest,
            "calibration images": origin.calibration.num_images,
            "calibration digest": origin.calibration.image_ids_digest,
            "trained on": origin.trained_on,
            "recipe found": origin.recipe_found,
            "quantized on": origin.quantized_on,
            "code": origin.git_commit,
            "tools": dict(origin.tool_versions),
        },
    )


def subject_of_run(records: RunRecords) -> ComparedModel:
    """A run, as far as it has come; called by its folder."""
    exported, checkpoint, dataset = records.exported, records.checkpoint, records.dataset
    onnx, protocol = records.onnx, records.onnx or records.fp32
    placement = None if exported is None else exported.placement
    return ComparedModel(
        name=records.run,
        fp32=None if records.fp32 is None else records.fp32.stats,
        onnx=None if onnx is None else onnx.stats,
        by_joint={} if onnx is None else onnx.by_joint,
        size_bytes=None if exported is None else exported.model.size_bytes,
        fp32_size_bytes=None if exported is None else exported.fp32_size_bytes,
        **_speed(records.latency),
        int8_share=None if placement is None else placement.int8_mac_share,
        checks=() if records.decision is None else records.decision.checks,
        recipe=records.config.recipe.model_dump(mode="json"),
        settings=_without_recipe(records.config.model_dump(mode="json")),
        protocol={} if protocol is None else _protocol(protocol.fingerprint),
        origin={
            "started": None if records.started is None else f"{records.started:%Y-%m-%d %H:%M} UTC",
            "checkpoint SHA-256": None if checkpoint is None else checkpoint.file.sha256,
            "data digest": None if dataset is None else dataset.digest,
            "published": None if records.published is None else records.published.version,
            "recipe found": None if records.choice is None else records.choice.reason,
        },
    )


def _speed(latency: LatencyComparison | None) -> dict[str, Any]:
    speed = speed_summary(latency)
    if speed is None:
        return {}
    return {
        "int8_ms": speed.int8_ms,
        "fp32_ms": speed.fp32_ms,
        "speed_up": speed.ratio,
        "processor": speed.processor,
    }


def _without_recipe(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings but for the recipe; those that older code did not know have the values that they have by default."""
    with suppress(ValidationError):
        settings = RunConfig.model_validate(settings).model_dump(mode="json")
    return {key: value for key, value in settings.items() if key not in ("recipe", "schema_version")}


def _protocol(fingerprint: ProtocolFingerprint) -> Mapping[str, Any]:
    return fingerprint.model_dump(mode="json")
