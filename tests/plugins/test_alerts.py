"""People are told in one sentence with a link, over real servers; nothing that goes wrong with it concerns a task."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hpe_airflow import alert_channels
from hpe_airflow.alerts import DriftedRequests, FailedTask, LateRun, PromotedVersion, RefusedModel, late_alert
from hpe_airflow.runs import open_run_from_context

from hpe_tasks.errors import CheckpointError, SupersededError
from hpe_tasks.pipeline.runs import Pointer
from hpe_tasks.records.base import Record
from hpe_tasks.records.release import PromotedModel
from support import run_cases
from support.receivers import Receiver, http_receiver, mail_receiver

pytestmark = pytest.mark.usefixtures("airflow_database", "workspace")

BASE = "https://airflow.example/team"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPE_WORKSPACE", tmp_path.as_uri())
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", f"{BASE}/")


def webhook(monkeypatch: pytest.MonkeyPatch, address: str, **fields: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HPE_ALERTS_WEBHOOK", json.dumps({"conn_type": "http", "host": address, **fields}))


def mail(monkeypatch: pytest.MonkeyPatch, server: Receiver, **extra: Any) -> None:
    said = {"disable_ssl": True, "disable_tls": True, "from_email": "airflow@example.com", **extra}
    fields = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.port, "extra": said}
    monkeypatch.setenv("AIRFLOW_CONN_HPE_ALERTS_EMAIL", json.dumps(fields))


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with http_receiver() as server:
        webhook(monkeypatch, f"{server.address}/services", password="T0/B0/se-cret")
        yield server


def failed(error: Any, task: str = "quantize") -> dict[str, Any]:
    instance = SimpleNamespace(task_id=task, dag_id="hpe_requantize", run_id="manual__2026-03-01T00:00:00+00:00")
    return {"ti": instance, "exception": error, "params": {"preset": "sample"}, "run_id": instance.run_id}


TASK = f"{BASE}/dags/hpe_requantize/runs/manual__2026-03-01T00%3A00%3A00%2B00%3A00/tasks/quantize"


def test_a_failure_is_one_sentence_with_a_link(hook: Receiver) -> None:
    FailedTask()(failed(CheckpointError("w.pth is no checkpoint:\n  <!channel> & {{ 1/0 }}.", hint="Take another.")))
    [post] = hook.posts
    assert post.path == "/services/T0/B0/se-cret"
    # What a file says is neither rendered nor a mention.
    said = "w.pth is no checkpoint: &lt;!channel&gt; &amp; {{ 1/0 }}. Take another."
    assert post.json == {"text": f"hpe_requantize: quantize failed: {said} {TASK}"}


def test_an_attempt_that_was_given_up_is_no_failure(hook: Receiver) -> None:
    FailedTask()(failed(SupersededError("Another attempt goes on.")))
    assert hook.posts == []


def test_an_e_mail_has_the_sentence_and_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_receiver() as server:
        mail(monkeypatch, server, to="a@example.com, b@example.com")
        FailedTask()(failed(CheckpointError("<b>w.pth</b>\nis no checkpoint.")))
    [(to, message)] = server.mails
    assert to == ["a@example.com", "b@example.com"]
    assert message["From"] == "airflow@example.com"
    assert message["Subject"] == "hpe_requantize: quantize failed: <b>w.pth</b> is no checkpoint."
    body = message.get_body(("html",))
    assert body is not None
    text = body.get_content()
    assert "quantize failed: &lt;b&gt;w.pth&lt;/b&gt; is no checkpoint." in text
    assert f'<a href="{TASK}">' in text


def test_without_a_connection_nothing_is_asked_or_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        FailedTask()(failed(CheckpointError("Broken.")))
    assert [record for record in caplog.records if record.name.startswith("hpe_airflow")] == []


def test_both_channels_are_told_when_one_is_broken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with http_receiver(404) as broken, mail_receiver() as server:
        webhook(monkeypatch, broken.address, password="services/se-cret")
        mail(monkeypatch, server, to="a@example.com")
        with caplog.at_level(logging.INFO, logger="hpe_airflow"):
            FailedTask()(failed(CheckpointError("Broken.")))
    assert len(broken.posts) == 1
    assert len(server.mails) == 1
    lost, told = [record.getMessage() for record in caplog.records if record.name.startswith("hpe_airflow")]
    assert lost.startswith("The alert did not get through hpe_alerts_webhook: ")
    assert "404" in lost
    assert told.startswith("Told through hpe_alerts_email: hpe_requantize: quantize failed")
    assert "se-cret" not in caplog.text


@pytest.mark.parametrize(
    ("connection", "said"),
    [
        pytest.param({"conn_type": "http", "host": "http://127.0.0.1:9"}, "refused", id="nobody there"),
        pytest.param({"conn_type": "http", "host": "http://no.invalid", "password": "se-cret"}, "no.inv", id="no host"),
        pytest.param({"conn_type": "http", "host": "ftp://x"}, "ftp://x", id="no web address"),
    ],
)  # fmt: skip
def test_a_server_that_is_not_there_is_a_warning(
    connection: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HPE_ALERTS_WEBHOOK", json.dumps(connection))
    FailedTask()(failed(CheckpointError("Broken.")))
    [warning] = [record.getMessage() for record in caplog.records if record.name == "hpe_airflow.alert_channels"]
    assert "did not get through hpe_alerts_webhook" in warning
    assert said in warning
    assert "se-cret" not in caplog.text


def test_mail_to_nobody_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with mail_receiver() as server:
        mail(monkeypatch, server)
        FailedTask()(failed(CheckpointError("Broken.")))
    assert 'Put the addresses into its extra: {"to": "team@example.com"' in caplog.text


def test_a_server_that_never_ends_its_answer_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(alert_channels, "LONGEST_S", 1.0)
    with http_receiver(seconds_a_byte=0.1) as server:
        webhook(monkeypatch, server.address)
        begin = time.monotonic()
        FailedTask()(failed(CheckpointError("Broken.")))
        assert time.monotonic() - begin < 4
        assert len(server.posts) == 1
    assert "may not have got through hpe_alerts_webhook: its server took more than 1 s" in caplog.text


def test_a_late_run_is_told_with_the_outlines_that_a_deadline_gives(hook: Receiver) -> None:
    run = {"dag_id": "hpe_retrain", "dag_run_id": "scheduled__1", "state": "running"}
    due = datetime(2026, 3, 1, 13, 30, tzinfo=UTC)
    for given in (due, due.isoformat()):
        LateRun()({"dag_run": run, "deadline": {"id": "1", "deadline_time": given}})
    text = "hpe_retrain: the run scheduled__1 is late: it is running, and should have ended by 2026-03-01 13:30 UTC."
    assert [post.json["text"] for post in hook.posts] == [f"{text} {BASE}/dags/hpe_retrain/runs/scheduled__1"] * 2


def test_airflow_calls_the_alert_of_a_deadline_by_its_name(hook: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an executor's worker does it: the class is imported by its path, made, and called with the context."""
    import structlog
    from airflow.api_fastapi.core_api.datamodels.dag_run import DAGRunResponse
    from airflow.sdk.execution_time.callback_supervisor import execute_callback

    monkeypatch.setenv("HPE_ALERT_LATE_HOURS", "12")
    alert = late_alert()
    assert alert is not None
    # The scheduler gives a run's response, as JSON.
    assert {"dag_id", "dag_run_id", "state"} <= DAGRunResponse.model_json_schema(mode="serialization")[
        "properties"
    ].keys()
    run: dict[str, Any] = {
        "dag_id": "hpe_requantize",
        "dag_run_id": "manual__1",
        "state": "running",
        "conf": {},
        "note": None,
    }
    context = {"dag_run": run, "deadline": {"id": "1", "deadline_time": "2026-03-01T13:30:00Z"}}
    kwargs = {**alert.callback.kwargs, "context": context}
    done = execute_callback(alert.callback.path, kwargs, Path("hpe_requantize.py"), None, structlog.get_logger())
    assert done == (True, None)
    [post] = hook.posts
    assert post.json["text"].startswith("hpe_requantize: the run manual__1 is late: it is running, and should have")


def test_lateness_is_asked_for_in_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert late_alert() is None
    monkeypatch.setenv("HPE_ALERT_LATE_HOURS", "0.5")
    alert = late_alert()
    assert alert is not None
    assert (alert.interval, alert.callback.path) == (timedelta(minutes=30), "hpe_airflow.alerts.LateRun")
    for wrong in ("soon", "0", "-1", "nan", "1e9"):
        monkeypatch.setenv("HPE_ALERT_LATE_HOURS", wrong)
        with pytest.raises(ValueError, match=f"HPE_ALERT_LATE_HOURS='{wrong}' is not a number of hours"):
            late_alert()


def test_drift_is_told_and_other_reasons_are_not(hook: Receiver, tmp_path: Path) -> None:
    from hpe_tasks.records.watch import MadeOf, Trigger, WatchReport
    from hpe_tasks.storage.files import digest_of

    made = MadeOf(checkpoint_sha256="0" * 64, dataset_digest="1" * 64, settings={}, tools={})
    drift = Trigger(kind="drift", reason="brightness: PSI 0.61")
    report = WatchReport(
        name="pose", channel="staging", registry="s3://m/r", looked_at=datetime.now(UTC), version="a" * 16,
        manifest_sha256="2" * 64, made_of=made, triggers=(Trigger(kind="tools", reason="torch 1 → 2"), drift),
    )  # fmt: skip
    context = failed(None, "evaluate_triggers")
    kept = tmp_path / "watching" / "looks" / f"{digest_of(context['run_id'])[:16]}.json"
    kept.parent.mkdir(parents=True)
    kept.write_text(report.model_dump_json())
    DriftedRequests()(context)
    kept.write_text(report.model_copy(update={"triggers": report.triggers[:1]}).model_dump_json())
    DriftedRequests()(context)
    [post] = hook.posts
    assert post.json["text"].startswith("pose: what the function sees has drifted: brightness: PSI 0.61. https://")


def of_run(task: str, record: Record | None) -> tuple[dict[str, Any], str]:
    """The context of a task of a run that has left a record, and the run's page."""
    context = failed(None, task)
    run = open_run_from_context(context)
    if record is not None:
        at, kept = datetime.now(UTC), record.model_dump(mode="json")
        run.keep(Pointer(step=task, key="k", reused=False, finished_at=at, record=kept))
    return context, f"{BASE}/hpe/runs/{run.name.replace(':', '%3A').replace('+', '%2B')}"


@pytest.mark.parametrize(
    ("case", "said"),
    [
        pytest.param(run_cases.gate_failed, "sample-pose was not published, it failed its gate: ", id="refused"),
        pytest.param(run_cases.inconclusive, "sample-pose was not published, its gate is inconclusive: ", id="unsure"),
    ],
)
def test_a_refused_model_is_told_with_the_first_failed_check(hook: Receiver, case: Any, said: str) -> None:
    decision = case().decision
    failed_checks = [check for check in decision.checks if not check.passed]
    context, page = of_run("gate", decision)
    RefusedModel()(context)
    [post] = hook.posts
    more = f", and {len(failed_checks) - 1} more of its checks failed" if len(failed_checks) > 1 else ""
    assert post.json["text"] == f"{said}{failed_checks[0].reason}{more}. {page}/report"


def test_a_model_that_passed_or_was_not_judged_is_no_refusal(hook: Receiver) -> None:
    RefusedModel()(of_run("gate", None)[0])
    RefusedModel()(of_run("gate", run_cases.judged(run_cases.complete()).decision)[0])
    assert hook.posts == []


def test_a_promotion_is_told_unless_the_channel_served_it_already(hook: Receiver) -> None:
    moved = PromotedModel(
        registry="s3://m/r", name="pose", version="b" * 16, channel="production", previous_version="a" * 16
    )
    context, page = of_run("promote", moved)
    PromotedVersion()(context)
    PromotedVersion()(of_run("promote", moved.model_copy(update={"previous_version": None}))[0])
    PromotedVersion()(of_run("promote", moved.model_copy(update={"previous_version": moved.version}))[0])
    said = f"pose: channel production now serves {moved.version}"
    texts = [f"{said}, in place of {'a' * 16}. {page}/version", f"{said}. {page}/version"]
    assert [post.json["text"] for post in hook.posts] == texts


def test_a_run_that_cannot_be_read_is_a_warning(hook: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    context = {**failed(None, "gate"), "params": {"preset": "nowhere"}}
    RefusedModel()(context)
    assert hook.posts == []
    assert "Nobody was alerted: " in caplog.text
    assert "nowhere" in caplog.text
