"""The HTML report of one run: a single file without network access, complete for whatever the run has produced."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpe_tasks.gate.accuracy import UNITS, accuracy_limits, megabytes_text, sample_text
from hpe_tasks.gate.floor import next_step
from hpe_tasks.gate.references import BOX_SOURCES, ComparedFigure
from hpe_tasks.pose.drawing import CENTRE, LEFT, RIGHT
from hpe_tasks.records.evaluation import FailedImage, ProtocolFingerprint
from hpe_tasks.records.execution import LatencyComparison
from hpe_tasks.records.gate import GateCheck
from hpe_tasks.records.training_curves import read_curves
from hpe_tasks.report.advice import next_steps
from hpe_tasks.report.charts import Bullet, DotPlot, bullet, dot_plot
from hpe_tasks.report.distillation_chart import loss_curve
from hpe_tasks.report.files import ReportFiles
from hpe_tasks.report.interval_chart import interval_plot
from hpe_tasks.report.joint_ranges_table import ranges_view
from hpe_tasks.report.ladder import ladder_view
from hpe_tasks.report.layer_chart import layer_chart
from hpe_tasks.report.parity_chart import parity_chart
from hpe_tasks.report.pictures import pictures_of
from hpe_tasks.report.precision_chart import precision_plot
from hpe_tasks.report.records import (
    RunRecords,
    Verdict,
    comparison_text,
    measured_on,
    milliseconds_text,
    noise_text,
    notes_of,
    publication_rows,
    published_text,
    quantities_of,
    stat_rows,
    threads_text,
    timed_on,
    verdict_of,
)
from hpe_tasks.report.retraining import checkpoint_plot
from hpe_tasks.report.templating import signed, templates_for
from hpe_tasks.report.training_page import training_view
from hpe_tasks.storage.files import write_atomically

__all__ = ["ReportFiles", "RunRecords", "render_report"]

# The largest Data Docs page that is embedded; together with the pictures the report stays below 4 MB.
_MAX_DATA_DOCS_BYTES = 2_500_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tile:
    """One number of the summary, with what it is measured on or compared with."""

    label: str
    value: str
    note: str
    quick_look: bool = False


@dataclass(frozen=True)
class CheckRow:
    """A gate check as it is shown."""

    check: GateCheck
    observed: str
    limit: str
    margin: str
    chart: Bullet


@dataclass(frozen=True)
class JointRow:
    """The accuracy of one joint: FP32, the exported file, and what changed."""

    joint: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class PublishedRow:
    """A published figure beside the run's own; `status` is what the two say about one another."""

    row: ComparedFigure
    published: str
    ours: str
    difference: str
    status: str


@dataclass(frozen=True)
class SpeedBar:
    """The times of one file: median and 95th percentile, in percent of the chart's width."""

    label: str
    style: str
    median: float
    p95: float
    text: str


@dataclass(frozen=True)
class SpeedGroup:
    """Both files with one number of threads, and what they amount to."""

    threads: str
    ratio: str
    noise: str
    bars: tuple[SpeedBar, ...]


@dataclass(frozen=True)
class Speed:
    """The chart of the exported file's speed against FP32."""

    groups: tuple[SpeedGroup, ...]
    note: str


def render_report(records: RunRecords, files: ReportFiles, out: Path) -> Path:
    """Write the run's report to the file `out` and return its path.

    Whatever the run has not produced is left out or named as missing: a failed run is when a report is needed most.

    Raises:
        OSError: `out` cannot be written.
    """
    environment = templates_for(records.metric)
    page = environment.get_template("report.html.j2").render(view_of(records, files))
    write_atomically(out, page.encode())
    return out


def view_of(records: RunRecords, files: ReportFiles) -> dict[str, Any]:
    """Everything that the template shows."""
    verdict: Verdict = verdict_of(records)
    groups: DotPlot | None = None
    grouped = False
    if records.fp32 and records.onnx:
        # Joints without a left and a right are in no group.
        before, after = records.fp32, records.onnx
        grouped = bool(before.by_group)
        groups = dot_plot(before.by_group or before.by_joint, after.by_group or after.by_joint, records.metric)
    protocol = next((report.fingerprint for _, report in reversed(records.measurements) if report), None)
    return {
        "r": records,
        "verdict": verdict,
        "steps": records.steps,
        "failed": [step for step in records.steps if step.state == "failed"],
        "subset": any(report.fingerprint.subset for _, report in records.measurements if report),
        "tiles": list(_tiles(records)),
        "speed": _speed(records.latency),
        "checks": [check_row(check) for check in records.decision.checks] if records.decision else [],
        "ladder": ladder_view(records),
        "intervals": interval_plot(records.comparison, records.metric),
        "checkpoints": checkpoint_plot(records.compared_checkpoints, records.metric),
        "parity": parity_chart(records.comparison.parity) if records.comparison else None,
        "layers": layer_chart(
            records.layers,
            from_file=records.config.model.network.from_file,
            rungs=records.rungs,
            metric=records.metric,
        ),
        "joint_ranges": ranges_view(records.quantized.joint_ranges if records.quantized else None),
        "precision": precision_plot(records.quantized.mixed_precision if records.quantized else None),
        "training_stages": () if files.curves is None else training_view(read_curves(files.curves)),
        "distilled": loss_curve(records.quantized.distillation if records.quantized else None),
        "advice": next_steps(records),
        "floor_advice": next_step(records.below_floor) if records.below_floor else "",
        "metric": records.metric,
        "stats": stat_rows(records),
        "notes": (*notes_of(records.metric), measured_on(records)),
        "sample": sample_text(records.onnx) if records.onnx else "",
        "groups": groups,
        "grouped": grouped,
        "joints": list(_joint_rows(records)) if grouped else [],
        "unreadable": _unreadable(records),
        "published": list(_published_rows(records)),
        "publication": list(publication_rows(records)),
        "published_text": published_text,
        "second": next(c.label for c in records.metric.columns if c.field == records.metric.second),
        "pictures": pictures_of(records, files),
        "data_docs": _data_docs(files.data_docs),
        "colours": {"left": LEFT, "right": RIGHT, "centre": CENTRE},
        "protocol": protocol,
        "protocol_text": "" if protocol is None else _protocol_text(protocol),
        "settings": list(_flat(records.requested.model_dump(mode="json"))),
    }


def _tiles(records: RunRecords) -> Iterator[Tile]:
    onnx, fp32, exported, metric = records.onnx, records.fp32, records.exported, records.metric
    shown = onnx or fp32
    if shown is not None:
        form = "the ONNX file" if shown is onnx else "FP32"
        yield Tile(
            f"{metric.name} of {form}", metric.text(shown.accuracy), sample_text(shown), shown.fingerprint.subset
        )
    if records.drop is not None and fp32 is not None and onnx is not None:
        label = f"{metric.name} {'lost to' if records.drop >= 0 else 'gained by'} quantization"
        allowed = metric.text(accuracy_limits(records.config.gate, metric.key).drop)
        note = f"FP32 {metric.text(fp32.accuracy)}, allowed loss {allowed}, {onnx.fingerprint.num_persons:,} persons"
        yield Tile(label, metric.text(abs(records.drop)), note, onnx.fingerprint.subset or fp32.fingerprint.subset)
    if exported is not None:
        before, after = exported.fp32_size_bytes, exported.model.size_bytes
        note = f"{before / after:.1f} times smaller than FP32, {megabytes_text(before)}"
        yield Tile("Size of the ONNX file", megabytes_text(after), note)
        audit = exported.placement
        note = f"of {audit.total_macs / 1e6:,.0f} million multiply-accumulates for one image"
        yield Tile("Arithmetic in int8", f"{100 * audit.int8_mac_share:.1f} %", note)
    if records.latency is not None:
        one = records.latency.one_thread
        note = (
            f"{milliseconds_text(one.onnx.median_ms)} instead of {milliseconds_text(one.fp32.median_ms)} for one image"
        )
        yield Tile("Speed against FP32", UNITS["times"].text(one.ratio), f"{note}, {threads_text(one.threads)}")


def check_row(check: GateCheck) -> CheckRow:
    observed, limit, margin = quantities_of(check)
    return CheckRow(check, observed, limit, margin, bullet(check))


def _speed(latency: LatencyComparison | None) -> Speed | None:
    if latency is None:
        return None
    # One scale for all bars: threads can be compared as well.
    widest = max(time.p95_ms for one in latency.speed_ups for time in (one.fp32, one.onnx))
    groups = []
    for one in latency.speed_ups:
        bars = tuple(
            SpeedBar(
                label=label,
                style=style,
                median=round(100 * time.median_ms / widest, 2),
                p95=round(100 * time.p95_ms / widest, 2),
                text=milliseconds_text(time.median_ms),
            )
            for label, style, time in (("FP32", "fp32", one.fp32), ("ONNX int8", "int8", one.onnx))
        )
        groups.append(SpeedGroup(threads_text(one.threads), UNITS["times"].text(one.ratio), noise_text(one), bars))
    pairs = " and ".join(f"{one.pairs}" for one in latency.speed_ups)
    shape = "×".join(map(str, latency.input_shape))
    note = f"Both in turn, {pairs} pairs of measurements of an input of {shape}, on {timed_on(latency)}."
    return Speed(tuple(groups), note)


def _joint_rows(records: RunRecords) -> Iterator[JointRow]:
    fp32, onnx, metric = records.fp32, records.onnx, records.metric
    if fp32 is None or onnx is None:
        return
    for joint, before in fp32.by_joint.items():
        after = onnx.by_joint.get(joint)
        change = None if before is None or after is None else after - before
        yield JointRow(joint.replace("_", " "), metric.text(before), metric.text(after), signed(change, metric.text))


def _published_rows(records: RunRecords) -> Iterator[PublishedRow]:
    if records.reference is None:
        return
    for row in records.compared:
        yield PublishedRow(
            row=row,
            published=published_text(row.published.value),
            ours=published_text(row.ours),
            difference=signed(row.difference, published_text),
            status=comparison_text(row, records.reference),
        )


def _unreadable(records: RunRecords) -> list[tuple[FailedImage, str]]:
    """Each image that a measurement could not read, and which measurements those were."""
    found: dict[FailedImage, list[str]] = {}
    for label, report in records.measurements:
        for image in report.failed_images if report else ():
            found.setdefault(image, []).append(label)
    return [(image, ", ".join(labels)) for image, labels in found.items()]


def _protocol_text(protocol: ProtocolFingerprint) -> str:
    """How the figures were made, in one line."""
    (width, height), bottom_up = protocol.input_size, protocol.box_source == "whole_image"
    turned = f" for images wider than high, {height}×{width} for the others" if bottom_up and width != height else ""
    return "; ".join(
        (
            f"{protocol.num_persons:,} persons in {protocol.num_images:,} images of {protocol.split}"
            + (" (a subset)" if protocol.subset else ""),
            f"input from {BOX_SOURCES[protocol.box_source]}",
            f"input size {width}×{height}{turned}",
            f"flip test {'on' if protocol.flip_test else 'off'}",
            f"decoder: {protocol.decoder}",
            f"{len(protocol.joint_map)} joints compared",
        )
    )


def _data_docs(path: Path | None) -> str | None:
    if path is None:
        return None
    if path.stat().st_size > _MAX_DATA_DOCS_BYTES:
        log.warning("%s is too large for the report and is left out of it.", path)
        return None
    return path.read_text(encoding="utf-8")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys, as `--set` takes them, and values."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, ", ".join(str(item) for item in value)
        else:
            yield prefix + key, "–" if value is None else str(value)
