"""What a run came to, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpe_tasks.config import Frozen
from hpe_tasks.report.records import (
    RunRecords,
    ap_text,
    decimals_of,
    megabytes_text,
    quantity_text,
    steps_of,
    verdict_of,
)
from hpe_tasks.results import Artifact, EvaluationReport, GateDecision, Record

_QUICK_LOOK = "quick look"
_MANY = 6


def summary_table(records: RunRecords, *, report: Path | str | None = None) -> RenderableType:
    """The verdict, accuracy, gate, sizes and addresses of a run, as far as it has come; `report` is its HTML file.

    Values that users gave are shown as they are: nothing in them is read as markup. Print it with `soft_wrap=True`, so
    that addresses stay in one piece.
    """
    parts: list[RenderableType] = [_headline(records)]
    if any(measured for _, measured in records.measurements):
        parts.append(_accuracy(records))
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
    failed = [step.failure for step in steps_of(records) if step.state == "failed" and step.failure]
    if not failed:
        text.append(f"{verdict.detail}\n")
    for failure in failed:
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
    table = _table("Accuracy", "Model", "AP", "AP50", "AP75", "AR", "Persons", "Images")
    table.add_column("", style="yellow")
    for label, report in records.measurements:
        if report is None:
            table.add_row(label, *["–"] * 6, "not measured")
            continue
        stats, protocol = report.stats, report.fingerprint
        table.add_row(
            label,
            *(ap_text(value) for value in (stats.ap, stats.ap50, stats.ap75, stats.ar)),
            f"{protocol.num_persons:,}",
            f"{protocol.num_images:,}",
            _QUICK_LOOK if protocol.subset else "",
        )
    return table


def _checks(decision: GateDecision) -> Table:
    table = _table("Gate", "Check", "Observed", "Limit")
    table.add_column("Result")
    for check in decision.checks:
        decimals = decimals_of(check)
        relation = "≥" if check.comparison == "at_least" else "≤"
        table.add_row(
            Text(check.title),
            quantity_text(check.observed, check.unit, decimals),
            f"{relation} {quantity_text(check.limit, check.unit, decimals)}",
            Text("passed", style="green") if check.passed else Text(f"FAILED: {check.reason}", style="red"),
        )
    return table


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
    exported, published = records.exported, records.published
    if exported is not None:
        before, after = exported.fp32_size_bytes, exported.model.size_bytes
        sizes = f"FP32 {megabytes_text(before)}, ONNX int8 {megabytes_text(after)}"
        yield "Size", f"{sizes} ({before / after:.1f} times smaller)"
        audit = exported.placement
        yield "In int8", f"{100 * audit.int8_mac_share:.1f} % of {audit.total_macs / 1e6:,.0f} M multiply-accumulates"
        yield "Model file", exported.model.uri
    if published is not None:
        yield "Published", f"{published.manifest.uri}"
        yield "Channel", f"{published.channel} of {published.name} in {published.registry}"
    if report is not None:
        yield "Report", str(report)


def record_table(step: str, record: Record) -> RenderableType:
    """What one step has left: the table of its kind where there is one, its fields otherwise."""
    if isinstance(record, EvaluationReport):
        return _measured(record)
    if isinstance(record, GateDecision):
        return _checks(record)
    table = Table(title=step, box=None, show_header=False, pad_edge=False, title_justify="left", title_style="bold")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in record:
        if name != "schema_version":
            table.add_row(name, Text(_shown(value)))
    return table


def _measured(report: EvaluationReport) -> Group:
    protocol = report.fingerprint
    quick = f" ({_QUICK_LOOK})" if protocol.subset else ""
    title = f"{report.runtime}: {protocol.num_persons:,} persons in {protocol.num_images:,} images{quick}"
    table = _table("", "Statistic", "Value")
    for name, value in report.stats:
        table.add_row(name[:2].upper() + name[2:].replace("_", " "), ap_text(value))
    for group, value in report.by_group.items():
        table.add_row(f"AP {group}", ap_text(value))
    return Group(Text(title, style="bold"), table)


def _shown(value: Any) -> str:
    if isinstance(value, Artifact):
        return f"{value.uri} ({megabytes_text(value.size_bytes)})"
    if isinstance(value, tuple) and len(value) > _MANY:
        return f"{', '.join(map(str, value[:_MANY]))}, … ({len(value)} in all)"
    if isinstance(value, Frozen):
        return ", ".join(f"{name} {_shown(inner)}" for name, inner in value if name != "schema_version")
    return str(value)
