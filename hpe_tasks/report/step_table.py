"""What a step has left as a table of words and figures, where there is no table of its kind's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hpe_tasks.config.base import Frozen
from hpe_tasks.gate.accuracy import megabytes_text, metric_of
from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.records.evaluation import QuantizedEvaluation
from hpe_tasks.records.execution import LatencyComparison
from hpe_tasks.report.records import speed_rows

_MANY = 6


def step_table(step: str, record: Record) -> RenderableType:
    """The fields that have a value, a row for each; what holds lists of further records is counted."""
    table = Table(title=step, box=None, show_header=False, pad_edge=False, title_justify="left", title_style="bold")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in record:
        if isinstance(value, LatencyComparison):
            for label, text in speed_rows(value):
                table.add_row(label, Text(text))
        elif name != "schema_version" and (text := value_text(value)):
            table.add_row(name.replace("_", " "), Text(text))
    return table


def quantized_table(record: QuantizedEvaluation) -> RenderableType:
    """QuantSim beside the exported file, how well its kernels agree, and how fast it is."""
    metric = metric_of(record.onnx.stats)
    both = Table("", "QuantSim", "ONNX int8", title=metric.title, title_justify="left", title_style="bold", box=None)
    for column in metric.columns:
        figures = (getattr(report.stats, column.field) for report in (record.quantsim, record.onnx))
        both.add_row(column.label, *map(metric.text, figures))
    protocol = record.onnx.fingerprint
    both.add_row("Persons", *[f"{protocol.num_persons:,}"] * 2)
    both.add_row("Images", *[f"{protocol.num_images:,}"] * 2)
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    if record.kernels is not None:
        facts.add_row("Kernels", Text(value_text(record.kernels)))
    for label, text in speed_rows(record.latency) if record.latency is not None else ():
        facts.add_row(label, Text(text))
    return Group(both, facts)


def value_text(value: Any) -> str:
    """A value in words; empty where there is none."""
    text = "" if value is None else str(value)
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = f"{value:.4g}"
    elif isinstance(value, Artifact):
        text = f"{value.uri} ({megabytes_text(value.size_bytes)})"
    elif isinstance(value, Frozen):
        text = _joined((name, inner) for name, inner in value if name != "schema_version")
    elif isinstance(value, Mapping):
        text = _joined(value.items())
    elif isinstance(value, tuple):
        text = _listed(value)
    return text


def _joined(pairs: Iterable[tuple[Any, Any]]) -> str:
    """Values by their names; False, which a setting that is off has, goes without saying, and further records too."""
    told = ((name, inner) for name, inner in pairs if inner is not False and not _holds_records(inner))
    return ", ".join(f"{str(name).replace('_', ' ')} {text}" for name, inner in told if (text := value_text(inner)))


def _listed(values: tuple[Any, ...]) -> str:
    if _holds_records(values):
        named = [str(name) for one in values if (name := getattr(one, "name", None))]
        return ", ".join(named[:_MANY]) or f"{len(values)}"
    shown = ", ".join(map(value_text, values[:_MANY]))
    return shown if len(values) <= _MANY else f"{shown}, … ({len(values)} in all)"


def _holds_records(value: Any) -> bool:
    return isinstance(value, tuple) and any(isinstance(one, Frozen) for one in value)
