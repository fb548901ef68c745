"""Figures of each run as metrics of Airflow's own: accuracy, loss, size, speed, the gate's word, and times of stages.

They go where Airflow's metrics go (`[metrics]` in its configuration), by its own client. All are gauges: a task's
process counts nothing but its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpe_tasks.errors import HpeError
from hpe_tasks.records.gate import GateDecision

if TYPE_CHECKING:
    from hpe_tasks.pipeline.runs import Run
    from hpe_tasks.pipeline.step import Step
    from hpe_tasks.records.base import Record
    from hpe_tasks.report.records import RunRecords

PREFIX = "hpe."

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmittedFigure:
    """One number.

    Attributes:
        name: With its unit where it has one.
        tags: What it is of, besides the model.
    """

    name: str
    value: float
    tags: dict[str, str] = field(default_factory=dict)


def emit_metrics(step: Step[Any], run: Run, record: Record, seconds: float) -> None:
    """Emit how long a step took, and with the gate's decision what the model came to.

    Does nothing where Airflow's metrics are off. What an earlier run had done already took no time of its own.

    Args:
        step: The step that has ended.
        run: Its run.
        record: What it left.
        seconds: How long it took.
    """
    if not _on():
        return
    figures = []
    try:
        pointer = run.pointer(step.name)
        if pointer is None or not pointer.reused:
            figures.append(EmittedFigure("stage_seconds", seconds, {"pipeline": run.pipeline, "stage": step.name}))
        if isinstance(record, GateDecision):
            from hpe_tasks.pipeline.collected import records_of

            figures += figures_of(records_of(run, looking_back=True))
    except HpeError as error:
        log.warning("%s: its figures are not told as metrics: %s", step.name, error)
    _emit(run.config.destination.name, figures)


def figures_of(records: RunRecords) -> Iterator[EmittedFigure]:
    """What a run's model came to, as far as it was measured."""
    metric = records.metric.key
    forms = ("fp32", "quantsim", "int8")
    for form, (_, report) in zip(forms, records.measurements, strict=False):
        if report is not None and report.accuracy is not None:
            yield EmittedFigure("accuracy", report.accuracy, {"metric": metric, "form": form})
    if records.drop is not None:
        yield EmittedFigure("accuracy_drop", records.drop, {"metric": metric})
    if (exported := records.exported) is not None:
        yield EmittedFigure("size_bytes", exported.fp32_size_bytes, {"form": "fp32"})
        yield EmittedFigure("size_bytes", exported.model.size_bytes, {"form": "int8"})
        yield EmittedFigure("int8_share", exported.placement.int8_mac_share)
    for one in records.latency.speed_ups if records.latency is not None else ():
        threads = {"threads": str(one.threads)}
        yield EmittedFigure("latency_ms", one.fp32.median_ms, {"form": "fp32", **threads})
        yield EmittedFigure("latency_ms", one.onnx.median_ms, {"form": "int8", **threads})
        yield EmittedFigure("speed_up", one.ratio, threads)
    if records.decision is not None:
        yield EmittedFigure("gate_passed", float(records.decision.passed))


def _on() -> bool:
    from airflow.sdk.configuration import conf

    clients = ("otel_on", "statsd_on", "statsd_datadog_enabled")
    return any(conf.getboolean("metrics", client, fallback=False) for client in clients)


def _emit(model: str, figures: list[EmittedFigure]) -> None:
    from airflow.sdk.observability import stats

    for figure in figures:
        stats.gauge(PREFIX + figure.name, figure.value, tags={"model": model, **figure.tags})
