"""What a run came to, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpe_tasks.accuracy import Metric, metric_of, sample_text
from hpe_tasks.config import Frozen
from hpe_tasks.fp32_floor import next_step
from hpe_tasks.references import Reference
from hpe_tasks.report.preflight_table import attention_table, preflight_table
from hpe_tasks.report.records import (
    RunRecords,
    comparison_text,
    cpu_text,
    measured_on,
    megabytes_text,
    notes_of,
    publication_rows,
    published_text,
    quantities_of,
    short_setting,
    speed_rows,
    stat_rows,
    steps_of,
    verdict_of,
)
from hpe_tasks.results import (
    Artifact,
    Diagnosis,
    EvaluationReport,
    Fp32Check,
    GateCheck,
    GateDecision,
    LatencyComparison,
    Preflight,
    Record,
)

_QUICK_LOOK = "quick look"
_MANY = 6


def summary_table(records: RunRecords, *, report: Path | str | None = None) -> RenderableType:
    """The verdict, accuracy, gate, sizes and addresses of a run, as far as it has come; `report` is its HTML file.

    Values that users gave are shown as they are: nothing in them is read as markup. Print it with `soft_wrap=True`, so
    that addresses stay in one piece.
    """
    parts: list[RenderableType] = [_headline(records)]
    if records.preflight is not None and (records.preflight.failed or records.preflight.warnings):
        parts.append(attention_table(records.preflight))
    if any(measured for _, measured in records.measurements):
        parts.append(_accuracy(records))
        parts += [Text(f"{note}\n", style="dim") for note in (*notes_of(records.metric), measured_on(records))]
        if records.reference is not None and records.compared:
            parts.append(_published(records, records.reference))
    if records.below_floor is not None and records.below_floor.diagnosis is not None:
        parts.append(_usual_mistakes(records.below_floor.diagnosis, records.metric))
    if records.decision is not None:
        parts.append(_checks(records.decision))
    parts.append(_facts(records, report))
    return Group(*parts)


def _headline(records: RunRecords) -> Text:
    verdict = verdict_of(records)
    colour = "green" if verdict.good else ("red" if verdict.kind in ("failed", "gate_failed") else "yellow")
    text = Text()
    text.append(verdict.title, style=f"bold {colour}")
    text.append(f"  (run {records.run})\n")
    if any(report is not None and report.fingerprint.subset for _, report in records.measurements):
        text.append("Quick look: the accuracy was measured on a subset of the evaluation split.\n", style="yellow")
    for warning in records.validation.warnings if records.validation else ():
        text.append(f"Data set: {warning.message} ({warning.count:,})\n", style="yellow")
    failed = [step.failure for step in steps_of(records) if step.state == "failed" and step.failure]
    if not failed:
        text.append(f"{verdict.detail}\n")
    if records.below_floor is not None:
        text.append("What to do: ", style="bold")
        text.append(f"{next_step(records.below_floor)}\n")
    for failure in failed:
        if failure.step == "preflight" and records.preflight is not None and records.preflight.failed:
            continue  # its table says it better
        text.append(f"{failure.step}: {failure.message}\n")
        if failure.hint:
            text.append("What to do: ", style="bold")
            text.append(f"{failure.hint}\n")
    return text


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def _accuracy(records: RunRecords) -> Table:
    headers = []
    for label, report in records.measurements:
        state = "not measured" if report is None else (_QUICK_LOOK if report.fingerprint.subset else "")
        headers.append(f"{label}\n{state}" if state else label)
    table = _table(f"Accuracy: {records.metric.title}", "", *headers)
    for row in stat_rows(records, brief=True):
        table.add_row(row.label, *row.values)
    return table


def _published(records: RunRecords, reference: Reference) -> Table:
    table = _table(f"Published: {reference.name}", records.metric.name, "Published", "Ours")
    table.add_column("")
    for row in records.compared:
        shown = comparison_text(row, reference)
        table.add_row(
            Text(row.published.label),
            published_text(row.published.value),
            published_text(row.ours),
            Text(shown, style="green" if row.within else "yellow"),
        )
    return table


def _usual_mistakes(diagnosis: Diagnosis, metric: Metric) -> Table:
    title = f"The same {diagnosis.num_persons} persons under the usual mistakes, the likeliest first"
    table = _table(title, "When", metric.name)
    table.add_column("What mends it", overflow="fold")
    table.add_row("as configured", metric.text(diagnosis.accuracy), "")
    for tried in diagnosis.tried[:_MANY]:
        style = "green" if tried == diagnosis.found else ""
        table.add_row(
            Text(tried.when, style=style),
            metric.text(tried.accuracy),
            Text("\n".join(map(short_setting, tried.settings))),
        )
    return table


def _checks(decision: GateDecision) -> Table:
    table = _table("Gate", "Check", "Observed", "Limit")
    table.add_column("Result")
    for check in decision.checks:
        observed, limit, _ = quantities_of(check)
        table.add_row(
            Text(check.title),
            observed,
            limit,
            Text(f"passed{_note(check)}", style="green")
            if check.passed
            else Text(f"FAILED: {check.reason}", style="red"),
        )
    return table


def _note(check: GateCheck) -> str:
    """What the reason says in brackets: how small the sample was, what could not be measured."""
    _, bracket, note = check.reason.partition(" (")
    return bracket + note


def _facts(records: RunRecords, report: Path | str | None) -> Text:
    """One line each, however long: addresses are there to be copied."""
    rows = list(_fact_rows(records, report))
    width = max((len(label) for label, _ in rows), default=0)
    text = Text()
    for label, value in rows:
        text.append(f"{label:{width}}  ", style="bold")
        text.append(f"{value}\n")
    return text


def _fact_rows(records: RunRecords, report: Path | str | None) -> Iterator[tuple[str, str]]:
    exported = records.exported
    if exported is not None:
        before, after = exported.fp32_size_bytes, exported.model.size_bytes
        sizes = f"FP32 {megabytes_text(before)}, ONNX int8 {megabytes_text(after)}"
        yield "Size", f"{sizes} ({before / after:.1f} times smaller)"
        audit = exported.placement
        yield "In int8", f"{100 * audit.int8_mac_share:.1f} % of {audit.total_macs / 1e6:,.0f} M multiply-accumulates"
    yield from speed_rows(records.latency)
    if exported is not None:
        yield "Model file", exported.model.uri
    yield from publication_rows(records)
    if report is not None:
        yield "Report", str(report)


def record_table(step: str, record: Record) -> RenderableType:
    """What one step has left: the table of its kind where there is one, its fields otherwise."""
    if isinstance(record, EvaluationReport):
        return _measured(record)
    if isinstance(record, GateDecision):
        return _checks(record)
    if isinstance(record, Fp32Check):
        return Text(f"{record.reason}.")
    if isinstance(record, Preflight):
        return preflight_table(record)
    table = Table(title=step, box=None, show_header=False, pad_edge=False, title_justify="left", title_style="bold")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in record:
        if isinstance(value, LatencyComparison):
            for label, text in speed_rows(value):
                table.add_row(label, Text(text))
        elif name != "schema_version":
            table.add_row(name, Text(_shown(value)))
    return table


def _measured(report: EvaluationReport) -> Group:
    metric = metric_of(report.stats)
    quick = f" ({_QUICK_LOOK})" if report.fingerprint.subset else ""
    table = _table(metric.title, "Statistic", "Value")
    for column in metric.columns:
        table.add_row(column.label, metric.text(getattr(report.stats, column.field)))
    listed = {column.field for column in metric.columns}
    for part, value in (*report.by_group.items(), *report.by_joint.items()):
        if part not in listed:
            table.add_row(f"{metric.name} {part.replace('_', ' ')}", metric.text(value))
    parts: list[RenderableType] = [Text(f"{report.runtime}: {sample_text(report)}{quick}", style="bold"), table]
    notes = (*notes_of(metric), f"Measured on {cpu_text(report)}.")
    parts += [Text(note, style="dim") for note in notes]
    parts += [Text(f"{image.name}: {image.reason}", style="yellow") for image in report.failed_images[:_MANY]]
    if len(report.failed_images) > _MANY:
        parts.append(Text(f"… {len(report.failed_images)} images in all", style="yellow"))
    return Group(*parts)


def _shown(value: Any) -> str:
    if isinstance(value, Artifact):
        return f"{value.uri} ({megabytes_text(value.size_bytes)})"
    if isinstance(value, tuple) and len(value) > _MANY:
        return f"{', '.join(map(str, value[:_MANY]))}, … ({len(value)} in all)"
    if isinstance(value, Frozen):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value if name != "schema_version")
    return str(value)
