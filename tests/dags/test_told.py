"""What runs tell people and machines outside of Airflow: alerts by a webhook, and metrics by OpenTelemetry."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from support.otlp import Sample, gauges, matching
from support.receivers import Receiver, http_receiver

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A server that takes OpenTelemetry's metrics, and Airflow's client of it, as each task's process makes it."""
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics import stats_utils

    with http_receiver() as server:
        monkeypatch.setenv("AIRFLOW__METRICS__OTEL_ON", "True")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{server.address}/v1/metrics")
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
        yield server
        monkeypatch.setenv("AIRFLOW__METRICS__OTEL_ON", "False")
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with http_receiver() as server:
        monkeypatch.setenv("AIRFLOW_CONN_HPE_ALERTS_WEBHOOK", json.dumps({"conn_type": "http", "host": server.address}))
        yield server


def run(dag_bag: Any, day: int, settings: dict[str, Any]) -> str:
    from airflow.dag_processing.dagbag import DagBag

    # Airflow writes a run's settings into the parameters of the DAG, where the next one in this process finds them.
    parsed = DagBag(dag_bag.dags["hpe_requantize"].fileloc).dags["hpe_requantize"]
    return str(parsed.test(logical_date=datetime(2026, 5, day, tzinfo=UTC), run_conf=settings).state)


@pytest.mark.usefixtures("s3_server")
def test_runs_tell_of_their_verdict_and_their_figures(
    dag_bag: Any,
    small_run: dict[str, Any],
    collector: Receiver,
    webhook: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opentelemetry.metrics import get_meter_provider

    monkeypatch.setenv("HPE_WORKSPACE", (tmp_path / "workspace").as_uri())
    settings = {**small_run, "destination.smoke_test": False, "destination.name": "told"}
    assert run(dag_bag, 1, settings) == "success"
    assert run(dag_bag, 2, {**settings, "gate.max_size_mb": 0.1}) == "success"
    assert run(dag_bag, 3, {**settings, "dataset.min_persons": 999}) == "failed"

    promoted, refused, failed = [post.json["text"] for post in webhook.posts]
    page = r"http://localhost:8080/hpe/runs/2026-05-0\dT000000-[0-9a-f]{8}"
    assert re.fullmatch(rf"told: channel staging now serves [0-9a-f]{{16}}\. {page}/version", promoted)
    assert re.fullmatch(rf"told was not published, it failed its gate: .* MB is above 0\.1 MB\. {page}/report", refused)
    assert failed.startswith("hpe_requantize: validate_dataset failed: The data set fails 1 of")
    assert failed.endswith("/tasks/validate_dataset")

    get_meter_provider().force_flush()  # type: ignore[attr-defined]
    samples = [sample for sample in gauges(collector.posts) if sample.name.startswith("airflow_hpe_")]
    assert {sample.label["model"] for sample in samples} == {"told"}
    _check_figures(samples, tmp_path)


def _check_figures(samples: list[Sample], folder: Path) -> None:
    """The figures are those of the records."""
    (made,) = (folder / "workspace/runs").glob("2026-05-01T000000-*")

    def record(step: str) -> Any:
        return json.loads((made / step / "result.json").read_text())["record"]

    def last(name: str, **labels: str) -> float:
        found = matching(samples, f"airflow_hpe_{name}", {key: ("=", value) for key, value in labels.items()})
        return found[-1].value

    quantized, exported = record("evaluate_quantized"), record("export_onnx")
    assert last("accuracy", form="fp32", metric="ap") == record("evaluate_fp32")["stats"]["ap"]
    assert last("accuracy", form="quantsim") == quantized["quantsim"]["stats"]["ap"]
    assert last("accuracy", form="int8") == quantized["onnx"]["stats"]["ap"]
    assert last("accuracy_drop") == last("accuracy", form="fp32") - last("accuracy", form="int8")
    assert last("size_bytes", form="int8") == exported["model"]["size_bytes"]
    assert last("size_bytes", form="fp32") == exported["fp32_size_bytes"]
    assert last("int8_share") == exported["placement"]["int8_mac_share"]
    for one in quantized["latency"]["speed_ups"]:
        threads = str(one["threads"])
        assert last("latency_ms", form="int8", threads=threads) == one["onnx"]["median_ms"]
        assert last("speed_up", threads=threads) == one["ratio"]
    # The second run was refused.
    assert last("gate_passed") == 0
    stages = {sample.label["stage"] for sample in samples if sample.name == "airflow_hpe_stage_seconds"}
    assert {"fetch_dataset", "evaluate_fp32", "quantize", "gate", "publish", "promote", "report"} <= stages
    assert last("stage_seconds", stage="quantize", pipeline="hpe_requantize") > 0.05
