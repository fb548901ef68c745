"""A published version in one row: what people sort, filter and choose by."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from hpe_tasks.config.base import Frozen
from hpe_tasks.config.run import Processors
from hpe_tasks.datasets import MetricName
from hpe_tasks.records.base import Record
from hpe_tasks.records.evaluation import ProtocolFingerprint
from hpe_tasks.records.execution import LatencyComparison
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.registry.channels import ChannelPointer
from hpe_tasks.registry.manifest import MODEL_ROLE, ModelManifest
from hpe_tasks.storage.files import digest_of

GateVerdict = Literal["passed", "refused", "inconclusive"]


class SpeedSummary(Frozen):
    """Speed of the exported file beside FP32 with one thread, on the machine that measured it.

    Attributes:
        int8_ms: Median of the exported file.
        fp32_ms: Median of FP32 in the same onnxruntime.
        ratio: How many times as fast as FP32, from pairs of measurements: not quite the medians' quotient.
        processor: Name of the CPU. Milliseconds of different ones are not to be compared.
    """

    int8_ms: float
    fp32_ms: float
    ratio: float
    threads: int
    processor: str


class VersionSummary(Record):
    """A version as a row of the catalogue. What an older manifest does not say is None; so is all of a damaged one.

    Attributes:
        published_at: When its manifest was made; of a damaged one, when the registry stored it.
        problem: What is wrong with its manifest, in a sentence; empty where nothing is.
        channels: Channels that serve it now, sorted.
        signed: Whether a signature lies beside the manifest; `hpe verify` says whose, and whether it fits.
        retired: Whether the registry's log says that no channel is to serve it any more.
        input_size: (W, H) of the network's input in pixels, of the largest where there are several.
        checkpoint_sha256: Of the checkpoint that it was made of.
        dataset_digest: Of the data that it was calibrated and measured on.
        recipe: Its name, which tells the techniques.
        recipe_found: How a search has found it, in a sentence; None where it was given.
        metric: What accuracy is.
        protocol: The first 16 hexadecimal digits of the SHA-256 over how accuracy was measured. Accuracies of
            different protocols are not to be compared.
        fp32: Accuracy before quantization: AP in [0, 1], or PCKh in percent.
        int8: Accuracy of the exported file.
        size_bytes: Of the exported file.
        fp32_size_bytes: Of the same network in FP32.
        speed: None where it was not measured.
        int8_share: Share of the multiply-accumulates that run in int8.
        verdict: What the gate said.
        reason: Why it did not pass; empty where it did.
        processors: Where it may be served; None where the manifest says nothing of it.
    """

    name: str
    version: str
    published_at: datetime
    problem: str = ""
    channels: tuple[str, ...] = ()
    signed: bool = False
    retired: bool = False
    published_by: str | None = None
    run: str | None = None
    preset: str | None = None
    architecture: str | None = None
    input_size: tuple[int, int] | None = None
    checkpoint_sha256: str | None = None
    dataset_digest: str | None = None
    recipe: str | None = None
    recipe_found: str | None = None
    dataset: str | None = None
    split: str | None = None
    persons: int | None = None
    metric: MetricName | None = None
    protocol: str | None = None
    fp32: float | None = None
    int8: float | None = None
    size_bytes: int | None = None
    fp32_size_bytes: int | None = None
    speed: SpeedSummary | None = None
    int8_share: float | None = None
    verdict: GateVerdict | None = None
    reason: str = ""
    processors: Processors | None = None

    @property
    def drop(self) -> float | None:
        """Accuracy that quantization cost, below zero for a gain; None where either figure is."""
        return None if self.fp32 is None or self.int8 is None else self.fp32 - self.int8

    @property
    def size_ratio(self) -> float | None:
        """The file's size as a share of FP32's."""
        return self.size_bytes / self.fp32_size_bytes if self.size_bytes and self.fp32_size_bytes else None


class ChannelSummary(Record):
    """A channel as a row of the catalogue.

    Attributes:
        version: What it serves; None where its pointer is damaged.
        moved_at: Of a damaged pointer, when the registry stored it.
        reason: How it was moved; with "sign" it was signed, and stayed.
        signed: Whether the pointer has a signature; `hpe verify` says whether it fits.
        pinned: Whether the registry's log says that it stays with what it serves.
        pinned_at: Since when it does.
        served_before: Versions, latest first: where a rollback goes.
        problem: What is wrong with its pointer, in a sentence; empty where nothing is.
    """

    name: str
    channel: str
    version: str | None = None
    moved_at: datetime
    moved_by: str = ""
    reason: str = ""
    signed: bool = False
    pinned: bool = False
    pinned_at: datetime | None = None
    served_before: tuple[str, ...] = ()
    problem: str = ""


def summary_of(manifest: ModelManifest, *, signed: bool = False, channels: tuple[str, ...] = ()) -> VersionSummary:
    """The row of a version.

    Args:
        manifest: All that there is to say of it.
        signed: Whether a signature lies beside it.
        channels: What serves it.
    """
    measured, origin = manifest.onnx, manifest.provenance
    return VersionSummary(
        name=manifest.name,
        version=manifest.version,
        published_at=origin.created_at,
        channels=channels,
        signed=signed,
        published_by=origin.created_by,
        run=origin.run,
        preset=origin.preset,
        architecture=manifest.serving.architecture,
        input_size=max(manifest.serving.input_sizes, default=None, key=lambda size: size[0] * size[1]),
        checkpoint_sha256=origin.checkpoint_sha256,
        dataset_digest=origin.dataset_digest,
        recipe=manifest.recipe.name,
        recipe_found=origin.recipe_found,
        dataset=origin.dataset_source,
        split=measured.fingerprint.split,
        persons=measured.fingerprint.num_persons,
        metric=measured.stats.metric,
        protocol=protocol_digest(measured.fingerprint),
        fp32=manifest.fp32.stats.accuracy,
        int8=measured.stats.accuracy,
        size_bytes=manifest.file(MODEL_ROLE).size_bytes,
        fp32_size_bytes=manifest.fp32_size_bytes,
        speed=speed_summary(manifest.latency),
        int8_share=manifest.placement.int8_mac_share,
        verdict=gate_verdict(manifest.gate),
        reason=manifest.gate.reason,
        processors=manifest.serving.processors,
    )


def channel_summary(pointer: ChannelPointer) -> ChannelSummary:
    """The row of a channel."""
    return ChannelSummary(
        name=pointer.name,
        channel=pointer.channel,
        version=pointer.version,
        moved_at=pointer.moved_at,
        moved_by=pointer.moved_by,
        reason=pointer.reason,
        signed=pointer.signature is not None,
        served_before=tuple(entry.version for entry in pointer.history),
    )


def protocol_digest(fingerprint: ProtocolFingerprint) -> str:
    """16 hexadecimal digits that are equal where accuracy was measured in the same way."""
    return digest_of(fingerprint.model_dump(mode="json"))[:16]


def speed_summary(latency: LatencyComparison | None) -> SpeedSummary | None:
    """The speed that the gate judges."""
    if latency is None:
        return None
    one = latency.one_thread
    return SpeedSummary(
        int8_ms=one.onnx.median_ms,
        fp32_ms=one.fp32.median_ms,
        ratio=one.ratio,
        threads=one.threads,
        processor=latency.processor,
    )


def gate_verdict(decision: GateDecision) -> GateVerdict:
    """A decision in a word."""
    return "passed" if decision.passed else "inconclusive" if decision.inconclusive else "refused"
