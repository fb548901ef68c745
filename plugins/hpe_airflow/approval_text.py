"""What a person reads who is asked whether a channel may serve a version, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpe_airflow.links import report_path
from hpe_airflow.task_links import comparison_path, model_version_path
from hpe_tasks.errors import HpeError
from hpe_tasks.gate.accuracy import megabytes_text, metric_of
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.records.release import PublishedModel
from hpe_tasks.registry.manifest import MODEL_ROLE, ModelManifest
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.report.records import RunRecords, interval_text, quantities_of
from hpe_tasks.storage.s3 import S3Location


def question(run: Run, published: PublishedModel) -> tuple[str, str]:
    """(subject, body): what is asked, the gate's table, and the version beside the one that is served now."""
    channel, records = run.config.destination.channel, records_of(run)
    registry = ModelRegistry(run.s3(), S3Location.parse(run.config.destination.registry))
    subject = f"May {channel} serve {published.name} {published.version}?"
    parts = ["### Gate", *_gate(records)]
    served, why = _served(registry, published, channel)
    parts += [f"### Beside {served.version}, which {channel} serves now" if served else "### Served now"]
    parts += list(_beside(registry, published, served)) if served else [why]
    links = [f"[Report]({report_path(run.name)})"] if records.decision is not None else []
    links += [f"[Version page]({model_version_path(published.name, published.version)})"]
    if served is not None:
        links += [f"[Compare]({comparison_path(published.name, published.version, served.version)})"]
    return subject, "\n".join([*parts, "", " · ".join(links)])


def _gate(records: RunRecords) -> Iterator[str]:
    if records.decision is None:
        yield "The run has no gate."
        return
    yield from _table(
        ("Check", "Observed", "Limit", "Margin", "Result"),
        [
            (
                check.title,
                f"{(shown := quantities_of(check))[0]}{interval_text(check)}",
                shown[1],
                shown[2],
                "passed" if check.passed else "FAILED",
            )
            for check in records.decision.checks
        ],
    )


def _served(registry: ModelRegistry, published: PublishedModel, channel: str) -> tuple[ModelManifest | None, str]:
    """The manifest of what the channel serves now, or why there is none to compare with."""
    try:
        if channel not in registry.channels(published.name):
            return None, "Nothing: the channel is new."
        manifest = registry.served(published.name, channel)
    except HpeError as error:
        return None, f"It could not be read: {error}"
    if manifest.version == published.version:
        return None, "The same version."
    return manifest, ""


def _beside(registry: ModelRegistry, published: PublishedModel, served: ModelManifest) -> Iterator[str]:
    ours = registry.stored(published.name, published.version, sha256=published.manifest.sha256).manifest
    theirs = dict(_figures(served))
    rows = [(label, text, theirs.get(label, "–")) for label, text in _figures(ours)]
    yield from _table(("", published.version, served.version), rows)


def _figures(manifest: ModelManifest) -> Iterator[tuple[str, str]]:
    """(label, text) of what a person weighs: accuracy, size, speed, and what they were measured on."""
    metric, protocol = metric_of(manifest.onnx.stats), manifest.onnx.fingerprint
    after, before = manifest.onnx.stats.accuracy, manifest.fp32.stats.accuracy
    yield f"{metric.name}, int8 file", metric.text(after)
    yield f"{metric.name}, FP32", metric.text(before)
    yield "Lost by quantization", metric.text(None if after is None or before is None else before - after)
    yield "Measured on", f"{protocol.num_persons:,} persons in {protocol.num_images:,} images"
    yield "Size", megabytes_text(manifest.file(MODEL_ROLE).size_bytes)
    yield "In int8", f"{100 * manifest.placement.int8_mac_share:.1f} %"
    if manifest.latency is not None:
        yield "Speed", f"{manifest.latency.one_thread.ratio:.2f} times FP32 on {manifest.latency.processor}"
    yield "Recipe", manifest.recipe.name
    yield "Published", f"{manifest.provenance.created_at:%Y-%m-%d %H:%M} by {manifest.provenance.created_by}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(_escaped, row))} |"
    yield ""


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
