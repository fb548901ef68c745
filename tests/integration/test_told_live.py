"""What a running Airflow tells by itself: tasks in processes of their own, a deadline that the scheduler looks at."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests

from support.airflow_server import AirflowServer, airflow_server
from support.otlp import gauges
from support.receivers import Receiver, http_receiver, mail_receiver, wait_for

__all__ = ["airflow_server"]

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(1800)]

RUNS = "/api/v2/dags/hpe_requantize/dagRuns"


class Told:
    """The servers that Airflow tells."""

    def __init__(self, webhook: Receiver, mail: Receiver, collector: Receiver) -> None:
        self.webhook, self.mail, self.collector = webhook, mail, collector

    @property
    def texts(self) -> list[str]:
        return [post.json["text"] for post in self.webhook.posts]


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    """Asked for before Airflow, which inherits the connections."""
    with (
        http_receiver() as webhook,
        mail_receiver() as mail,
        http_receiver() as collector,
        pytest.MonkeyPatch.context() as patch,
    ):
        hook = {"conn_type": "http", "host": webhook.address, "password": "services/se-cret"}
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.com", "to": "a@example.com"}
        smtp = {"conn_type": "smtp", "host": "127.0.0.1", "port": mail.port, "extra": extra}
        patch.setenv("AIRFLOW_CONN_HPE_ALERTS_WEBHOOK", json.dumps(hook))
        patch.setenv("AIRFLOW_CONN_HPE_ALERTS_EMAIL", json.dumps(smtp))
        # Later than any task begins, and before the last one ends.
        patch.setenv("HPE_ALERT_LATE_HOURS", str(3 / 3600))
        patch.setenv("AIRFLOW__METRICS__OTEL_ON", "True")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=airflow")
        patch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{collector.address}/v1/metrics")
        yield Told(webhook, mail, collector)


def trigger(server: AirflowServer, name: str, **changes: Any) -> str:
    session = server.session("operator")
    settings = {**server.settings, "destination.smoke_test": False, "destination.name": "live", **changes}
    body = {"logical_date": None, "conf": settings, "dag_run_id": name}
    answer = session.post(server.url + RUNS, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    for _ in range(5):
        # A busy machine keeps it from answering.
        with suppress(requests.Timeout):
            return server.wait(session, name, {"success", "failed"})
    pytest.fail("Airflow does not answer")


def test_a_late_run_its_promotion_and_a_failure_are_told(told: Told, airflow_server: AirflowServer) -> None:
    assert trigger(airflow_server, "late") == "success"
    wait_for(told.webhook.posts, 2, patience_s=60)
    late = next(text for text in told.texts if " is late: " in text)
    assert re.fullmatch(
        r"hpe_requantize: the run late is late: it is \w+, and should have ended by \d{4}-\d\d-\d\d \d\d:\d\d UTC\. "
        rf"{airflow_server.url}/dags/hpe_requantize/runs/late",
        late,
    )
    promoted = next(text for text in told.texts if "now serves" in text)
    assert promoted.startswith("live: channel staging now serves ")
    assert re.search(rf" {airflow_server.url}/hpe/runs/late-[0-9a-f]{{8}}/version$", promoted)
    # The link opens for who may see the runs.
    page = airflow_server.session("viewer").get(promoted.rpartition(" ")[2], timeout=30)
    assert (page.status_code, page.json()["name"]) == (200, "live")
    assert {post.path for post in told.webhook.posts} == {"/services/se-cret"}
    wait_for(told.mail.mails, 2)
    _check_a_persons_move(told, airflow_server, promoted)

    assert trigger(airflow_server, "refused", **{"gate.max_size_mb": 0.001}) == "success"
    assert trigger(airflow_server, "broken", **{"dataset.min_persons": 999}) == "failed"
    until = ("it failed its gate", "validate_dataset failed")
    wait_for(told.webhook.posts, 5, patience_s=60)
    for said in until:
        assert [text for text in told.texts if said in text], told.texts
    _check_figures(told)


def _check_a_persons_move(told: Told, server: AirflowServer, promoted: str) -> None:
    """The API server tells of it, with the connections that it knows."""
    found = re.search(r"now serves (\w+)", promoted)
    assert found is not None
    form = {"version": found[1], "channel": "production", "note": "the fair on Sunday"}
    address = f"{server.url}/hpe/models/live/actions/promote"
    answer = server.session("operator").post(address, data=form, timeout=60, allow_redirects=False)
    assert answer.status_code == 303, answer.text
    wait_for(told.webhook.posts, 3)
    wait_for(told.mail.mails, 3)
    said = f"live: channel production now serves {found[1]}, promoted by operator: the fair on Sunday. "
    assert told.texts[-1] == f"{said}{server.url}/hpe/models/live/{found[1]}"


def _check_figures(told: Told) -> None:
    """Processes of tasks have sent their figures before they ended, all as one instance."""
    samples = [sample for sample in gauges(told.collector.posts) if sample.name.startswith("airflow_hpe_")]
    names = {sample.name.removeprefix("airflow_hpe_") for sample in samples}
    figures = {"accuracy", "accuracy_drop", "size_bytes", "latency_ms", "speed_up", "int8_share", "gate_passed"}
    assert names == figures | {"stage_seconds"}
    assert {sample.label["model"] for sample in samples} == {"live"}
    assert {sample.source for sample in samples} == {("airflow", "airflow")}
    assert {sample.value for sample in samples if sample.name == "airflow_hpe_gate_passed"} == {0.0, 1.0}
    stages = {sample.label["stage"] for sample in samples if sample.name == "airflow_hpe_stage_seconds"}
    assert {"preflight", "quantize", "promote", "report"} <= stages
