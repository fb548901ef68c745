"""What runs tell by Airflow's OpenTelemetry client, as a server receives it; the dashboard asks for that alone."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hpe_airflow.metrics import emit_metrics
from hpe_airflow.runs import open_run_from_context

from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.runs import Pointer, Run
from hpe_tasks.records.base import Record
from hpe_tasks.report.records import RunRecords
from support import run_cases
from support.airflow_home import REPOSITORY
from support.otlp import Sample, gauges, matching
from support.prometheus import prometheus
from support.receivers import Receiver, http_receiver


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A server that takes OpenTelemetry's metrics, and Airflow's client of it, as each task's process makes it."""
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics import stats_utils
    from opentelemetry.metrics import get_meter_provider

    with http_receiver() as server:
        compose = yaml.safe_load((REPOSITORY / "docker/monitoring/compose.yaml").read_text())
        for name, value in compose["services"]["cpu-worker"]["environment"].items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{server.address}/v1/metrics")
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
        yield server
        # Else it is told once more when the process ends, and waited for.
        get_meter_provider().shutdown()  # type: ignore[attr-defined]
        monkeypatch.setenv("AIRFLOW__METRICS__OTEL_ON", "False")
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)


def received(collector: Receiver) -> list[Sample]:
    from opentelemetry.metrics import get_meter_provider

    get_meter_provider().force_flush()  # type: ignore[attr-defined]
    return [sample for sample in gauges(collector.posts) if sample.name.startswith("airflow_hpe_")]


def run_with(records: RunRecords, name: str, *, reused: bool = False, params: Any = None) -> tuple[Run, Record]:
    """A run that has left these records, and what its gate said."""
    run = open_run_from_context(
        {"run_id": name, "params": {"preset": "sample", "destination.name": name, **(params or {})}}
    )
    at = datetime.now(UTC)
    for step in REQUANTIZE.steps:
        record = getattr(records, step.shown_as) if step.shown_as else None
        if record is not None:
            kept = record.model_dump(mode="json")
            run.keep(Pointer(step=step.name, key="k", reused=reused, finished_at=at, record=kept))
    assert records.decision is not None
    return run, records.decision


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPE_WORKSPACE", tmp_path.as_uri())


PCKH = {"dataset.kind": "mpii", "model.skeleton": "mpii16", "dataset.source": "/nowhere"}


def told_by_three_models(collector: Receiver) -> tuple[list[Sample], RunRecords, RunRecords]:
    """What was received of a model with AP, one with PCKh, and a refused one; the records of the first two."""
    passed, mpii = run_cases.judged(run_cases.complete()), run_cases.judged(run_cases.mpii())
    for case, name, params in ((passed, "ap", {}), (mpii, "pckh", PCKH), (run_cases.gate_failed(), "refused", {})):
        run, decision = run_with(case, name, params=params)
        emit_metrics(steps.quantize, run, decision.model_copy(), 12.5)
        emit_metrics(steps.gate, run, decision, 0.25)
    return received(collector), passed, mpii


def test_figures_are_told_as_they_were_measured(collector: Receiver) -> None:
    samples, passed, mpii = told_by_three_models(collector)
    assert {sample.label["model"] for sample in samples} == {"ap", "pckh", "refused"}
    # Whichever process tells it.
    assert {sample.source for sample in samples} == {("airflow", "airflow")}

    def only(name: str, **labels: str) -> float:
        found = matching(samples, f"airflow_hpe_{name}", {key: ("=", value) for key, value in labels.items()})
        return {sample.value for sample in found}.pop()

    assert passed.onnx is not None
    assert passed.exported is not None
    assert mpii.fp32 is not None
    assert only("accuracy", model="ap", form="int8", metric="ap") == passed.onnx.accuracy
    assert only("accuracy", model="pckh", form="fp32", metric="pckh") == mpii.fp32.accuracy
    assert only("accuracy_drop", model="ap") == passed.drop
    assert only("size_bytes", model="ap", form="int8") == passed.exported.model.size_bytes
    assert (only("gate_passed", model="ap"), only("gate_passed", model="refused")) == (1, 0)
    assert only("stage_seconds", model="ap", stage="gate", pipeline="hpe_requantize") == 0.25


def test_prometheus_answers_each_query_of_the_dashboard_with_what_was_told(
    collector: Receiver, repository: Path, tmp_path: Path
) -> None:
    """Hours later, when Prometheus has forgotten what it is asked for without `last_over_time`."""
    samples = told_by_three_models(collector)[0]
    monitoring = repository / "docker/monitoring"
    dashboard = json.loads((monitoring / "dashboards/hpe.json").read_text())
    model, keep = dashboard["templating"]["list"]
    told = {(sample.name, sample.labels): sample.value for sample in samples}
    shown: dict[Any, float] = {}
    (tmp_path / "prometheus").mkdir()
    at = time.time() - 3 * 3600
    with prometheus(tmp_path / "prometheus", monitoring / "prometheus.yaml", samples, at) as server:
        for target, title in ((target, panel["title"]) for panel in dashboard["panels"] for target in panel["targets"]):
            expression = target["expr"].replace("$model", model["allValue"])
            for period in keep["query"].split(","):
                found = server.query(expression.replace("$keep", period))
                assert found, f"{title}: nothing answers {target['expr']}"
                shown |= {(name, tuple(sorted(labels.items()))): value for name, labels, value in found}
            # Lines that lie apart have names that tell them apart.
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            labels = [one for _, one, _ in found]
            apart = {key for one in labels for key in one if len({other.get(key) for other in labels}) > 1}
            assert apart <= named, title
            assert named <= {key for one in labels for key in one}, title
            only = server.query(target["expr"].replace("$model", "refused|none").replace("$keep", "1d"))
            assert {one["model"] for _, one, _ in only} <= {"refused"}, title
        listed = re.fullmatch(r"label_values\((\w+), (\w+)\)", model["query"]["query"])
        assert listed is not None
        assert server.label_values(listed[2], listed[1]) == ["ap", "pckh", "refused"]
        assert server.query("airflow_hpe_gate_passed") == [], "it is remembered without last_over_time"
    assert shown == told, "a figure that is told is on no panel, or another value"


def test_what_was_reused_took_no_time_and_metrics_may_be_off(
    collector: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, decision = run_with(run_cases.judged(run_cases.complete()), "again", reused=True)
    emit_metrics(steps.gate, run, decision, 0.25)
    names = {sample.name for sample in received(collector)}
    assert "airflow_hpe_gate_passed" in names
    assert "airflow_hpe_stage_seconds" not in names
    monkeypatch.setenv("AIRFLOW__METRICS__OTEL_ON", "False")
    emit_metrics(steps.gate, run_with(run_cases.judged(run_cases.complete()), "off")[0], decision, 0.25)
    assert "off" not in {sample.label["model"] for sample in received(collector)}
