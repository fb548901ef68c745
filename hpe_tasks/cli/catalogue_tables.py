"""Versions, runs, images and the registry's log as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich import box
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Column, Table
from rich.text import Text

from hpe_tasks.catalogue.images import ImageResult
from hpe_tasks.catalogue.index import Catalogue
from hpe_tasks.catalogue.runs import RunSummary
from hpe_tasks.catalogue.summaries import VersionSummary
from hpe_tasks.cli.output import DASH
from hpe_tasks.datasets import MetricName
from hpe_tasks.gate.accuracy import UNITS, Metric, megabytes_text, metric_named
from hpe_tasks.registry.log import LogRecord
from hpe_tasks.registry.manifest import ModelManifest
from hpe_tasks.report.records import margin_of, milliseconds_text, quantities_of, timed_on

_VERDICTS = {
    "published": ("published", "green"),
    "passed": ("passed", "green"),
    "done": ("done", "green"),
    "kept": ("kept", ""),
    "gate_failed": ("refused", "bold red"),
    "refused": ("refused", "bold red"),
    "inconclusive": ("inconclusive", "bold yellow"),
    "failed": ("failed", "bold red"),
    "unfinished": ("unfinished", "yellow"),
}


def versions_table(rows: Sequence[VersionSummary], catalogue: Catalogue, width: int) -> Table:
    """A line for each version; on a narrow terminal without what is asked for least."""
    shown = [column for column in _VERSION_COLUMNS if width >= column.from_width]
    table = Table(
        *(Column(one.title, justify=one.justify, no_wrap=not one.folds, overflow="fold") for one in shown),
        title=f"{catalogue.registry}: {len(rows)} of {_counted(len(catalogue.versions), 'version')}, "
        f"{_counted(len(catalogue.models), 'model')}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for row in rows:
        table.add_row(*(one.cell(row) for one in shown))
    processors = sorted({row.speed.processor for row in rows if row.speed is not None})
    told = [f"{row.name} {row.version}: {row.problem}" for row in rows if row.problem]
    told += [f"Channel {one.channel} of {one.name}: {one.problem}" for one in catalogue.channels if one.problem]
    if processors:
        told.append(f"Time: median with one thread, and times as fast as FP32, on {', '.join(processors)}.")
    if len({row.protocol for row in rows if row.protocol}) > 1:
        told.append("Accuracies were not all measured alike: `hpe models compare` says what differs.")
    table.caption, table.caption_justify = "\n".join(told), "left"
    return table


@dataclass(frozen=True)
class _VersionColumn:
    """A column of the versions, on terminals that are so wide."""

    title: str
    cell: Callable[[VersionSummary], RenderableType]
    from_width: int = 0
    justify: JustifyMethod = "right"
    folds: bool = False


def _served_by(row: VersionSummary) -> Text:
    if row.problem:
        return Text("damaged", "bold red")
    return Text(", ".join(row.channels), "bold green") if row.channels else Text("retired" if row.retired else "")


def _speed(row: VersionSummary) -> str:
    if row.speed is None:
        return DASH
    return f"{milliseconds_text(row.speed.int8_ms)} ({row.speed.ratio:.1f}×)"


_VERSION_COLUMNS = (
    _VersionColumn("model", lambda row: row.name, justify="left", folds=True),
    _VersionColumn("version", lambda row: row.version, justify="left"),
    _VersionColumn("published", lambda row: _time(row.published_at), 115, justify="left"),
    _VersionColumn("served by", _served_by, justify="left", folds=True),
    _VersionColumn("recipe", lambda row: row.recipe or DASH, 160, justify="left", folds=True),
    _VersionColumn("FP32", lambda row: _accuracy(row.metric, row.fp32), 90),
    _VersionColumn("int8", lambda row: _accuracy(row.metric, row.int8)),
    _VersionColumn("lost", lambda row: _lost(row.metric, row.drop)),
    _VersionColumn("size", lambda row: DASH if row.size_bytes is None else megabytes_text(row.size_bytes), 95),
    _VersionColumn("time", _speed),
    _VersionColumn("int8 share", lambda row: UNITS["share"].text(row.int8_share), 130),
)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def version_tables(manifest: ModelManifest, row: VersionSummary) -> Group:
    """All that a person asks of one version first."""
    facts = Table(box=None, show_header=False, title=f"{row.name} {row.version}", title_justify="left")
    for label, text in _facts(manifest, row):
        facts.add_row(label, Text(text, overflow="fold"))
    gate = Table("", "check", "observed", "limit", "margin", title="Gate", title_justify="left", box=box.SIMPLE_HEAD)
    for check in manifest.gate.checks:
        mark = Text("✓", "green") if check.passed else Text("✗", "red")
        margin = quantities_of(check)[2] if margin_of(check) is not None else ""
        gate.add_row(mark, check.title, *quantities_of(check)[:2], margin)
    metric = metric_named(manifest.onnx.stats.metric)
    joints = Table("joint", "FP32", "int8", "lost", title="Joints", title_justify="left", box=box.SIMPLE_HEAD)
    for joint, after in manifest.onnx.by_joint.items():
        before = manifest.fp32.by_joint.get(joint)
        lost = None if before is None or after is None else before - after
        joints.add_row(joint, metric.text(before), metric.text(after), _signed(metric, lost))
    files = Table("file", "size", "SHA-256", title="Files", title_justify="left", box=box.SIMPLE_HEAD)
    for file in manifest.files:
        files.add_row(file.role, megabytes_text(file.size_bytes), file.sha256)
    return Group(facts, gate, joints, files)


def _facts(manifest: ModelManifest, row: VersionSummary) -> Iterator[tuple[str, str]]:
    metric, origin = metric_named(manifest.onnx.stats.metric), manifest.provenance
    yield "Served by", ", ".join(row.channels) or ("nothing: it is retired" if row.retired else "nothing")
    lost = f"{_lost(row.metric, row.drop)} lost"
    yield metric.name, f"{metric.text(row.int8)} of the int8 file, {metric.text(row.fp32)} in FP32: {lost}"
    protocol = manifest.onnx.fingerprint
    yield "Measured on", f"{protocol.num_persons:,} persons in {protocol.num_images:,} images of {protocol.split}"
    if row.size_bytes is not None and row.size_ratio is not None:
        share = UNITS["share"].text(row.size_ratio)
        yield "Size", f"{megabytes_text(row.size_bytes)}, {share} of FP32"
    if row.speed is not None and manifest.latency is not None:
        times = UNITS["times"].text(row.speed.ratio)
        yield "Time", f"{milliseconds_text(row.speed.int8_ms)}, {times} as fast as FP32; {timed_on(manifest.latency)}"
    yield "Int8", f"{UNITS['share'].text(row.int8_share)} of the arithmetic"
    yield "Network", f"{row.architecture}, input {' × '.join(map(str, row.input_size or ()))}"
    yield "Recipe", (row.recipe or "") + (f"; {row.recipe_found}" if row.recipe_found else "")
    yield "Checkpoint", f"{origin.checkpoint_source}, SHA-256 {origin.checkpoint_sha256[:16]}…"
    yield "Data", f"{origin.dataset_source}, digest {origin.dataset_digest[:16]}…"
    yield "Calibration", f"{origin.calibration.num_images:,} images of {origin.calibration.split}"
    yield "Published", f"{_time(origin.created_at)} UTC by {origin.created_by}, run {origin.run}"
    yield "Signature", "there is one; `hpe verify` says whose" if row.signed else "none"


def runs_table(rows: Sequence[RunSummary], workspace: str) -> Table:
    """A line for each run."""
    table = Table(
        *(Column("run", overflow="fold"), Column("started", no_wrap=True), "model", "came to"),
        *(Column("FP32", justify="right"), Column("int8", justify="right"), "published, or why not"),
        title=f"{workspace}: {len(rows)} runs",
        box=box.SIMPLE_HEAD,
    )
    for row in rows:
        if row.verdict is None:
            table.add_row(row.name, "", "", Text("not readable", "bold red"), "", "", row.problem)
            continue
        text, style = _VERDICTS[row.verdict]
        told = f"{row.version} ({row.channel or 'no channel'})" if row.version else row.reason
        table.add_row(
            row.name,
            DASH if row.started is None else _time(row.started),
            row.model,
            Text(text, style),
            _accuracy(row.metric, row.fp32),
            _accuracy(row.metric, row.int8),
            Text(told),
        )
    return table


def images_table(run: str, metric: Metric, part: str, results: Iterable[ImageResult]) -> Table:
    """A line for each image."""
    counted = "joints" if metric.counts_joints else "persons"
    table = Table(
        "image",
        *(Column(name, justify="right") for name in (counted, "FP32", "QuantSim", "int8", "lost")),
        title=f"{run}: {metric.name} of each image alone" + ("" if part == "all" else f", {part}"),
        box=box.SIMPLE_HEAD,
    )
    for one in results:
        figures = (metric.text(value) for value in (one.fp32, one.quantsim, one.int8))
        table.add_row(str(one.image), f"{one.persons:,}", *figures, _signed(metric, one.lost))
    return table


def log_table(name: str, records: Sequence[LogRecord]) -> Table:
    """A line for each act."""
    table = Table("when", "who", "what", "version", "before", "why", title=f"{name}: log", box=box.SIMPLE_HEAD)
    for record in records:
        what = record.action + (f" {record.channel}" if record.channel else "")
        before = record.previous_version or ""
        table.add_row(_time(record.recorded_at), record.by, what, record.version, before, Text(record.note))
    return table


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _accuracy(metric: MetricName | None, value: float | None) -> str:
    return DASH if metric is None else metric_named(metric).text(value)


def _lost(metric: MetricName | None, value: float | None) -> str:
    return DASH if metric is None else _signed(metric_named(metric), value)


def _signed(metric: Metric, value: float | None) -> str:
    return DASH if value is None else ("−" if value < 0 else "+") + metric.text(abs(value))
