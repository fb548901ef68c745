from __future__ import annotations

import logging
import pickle
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import RetryAction
from hpe_airflow.failures import RETRIES, log_reason, reason_of
from hpe_airflow.runs import open_run_from_context

from hpe_tasks.errors import AccessError, ConfigError, DatasetError, StorageError, TransientError


@pytest.mark.parametrize(
    ("error", "action"),
    [
        pytest.param(TransientError("The server failed."), RetryAction.RETRY, id="network"),
        pytest.param(ConfigError("There is no preset 'x'."), RetryAction.FAIL, id="configuration"),
        pytest.param(DatasetError("No joints."), RetryAction.FAIL, id="data"),
        pytest.param(AccessError("No such bucket."), RetryAction.FAIL, id="access"),
        pytest.param(StorageError("The disk is full."), RetryAction.FAIL, id="disk"),
        pytest.param(ZeroDivisionError("a bug"), RetryAction.FAIL, id="a bug"),
    ],
)
def test_only_network_errors_are_tried_again(error: Exception, action: RetryAction) -> None:
    assert RETRIES["retry_policy"].evaluate(error, try_number=1, max_tries=4).action is action


def test_the_waits_grow() -> None:
    assert RETRIES["retries"] >= 2
    assert RETRIES["retry_exponential_backoff"] > 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        pytest.param(
            DatasetError("No file a.json.", hint="Check the folder."), "No file a.json. Check the folder.", id="hint"
        ),
        pytest.param(ConfigError("Line one\n  line two"), "Line one line two", id="on one line"),
        pytest.param(KeyError("x"), "KeyError: 'x'", id="a bug"),
        pytest.param(MemoryError(), "MemoryError", id="without words"),
        pytest.param("killed", "killed", id="a text"),
        pytest.param(None, "its process ended without an exception; it may have been killed.", id="no exception"),
    ],
)
def test_the_reason_is_one_sentence(error: Any, sentence: str) -> None:
    assert reason_of(error) == sentence


def context(error: Any, task: str = "quantize", **params: Any) -> dict[str, Any]:
    return {
        "ti": SimpleNamespace(task_id=task),
        "exception": error,
        "params": {"preset": "sample", **params},
        "logical_date": datetime(2026, 3, 1, tzinfo=UTC),
    }


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPE_WORKSPACE", tmp_path.as_uri())


def test_the_callback_names_the_task(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="hpe_airflow.failures"):
        log_reason(context(ConfigError("There is no recipe 'x'.")))
    assert caplog.messages == ["quantize failed: There is no recipe 'x'."]


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        pytest.param(
            StorageError("The disk is full.", hint="Free some."), "The disk is full.", "Free some.", id="ours"
        ),
        pytest.param(TimeoutError("after 6 h"), "TimeoutError: after 6 h", "", id="Airflow's time limit"),
        pytest.param("lost its worker", "lost its worker", "", id="a text"),
        pytest.param(None, "its process ended without an exception; it may have been killed.", "", id="nothing said"),
    ],
)
def test_what_fails_around_a_step_is_kept_in_the_run(error: Any, message: str, hint: str) -> None:
    told = context(error)
    log_reason(told)
    kept = open_run_from_context(told).failure("quantize")
    assert kept is not None
    assert (kept.step, kept.message, kept.hint) == ("quantize", message, hint)


def test_what_the_step_has_kept_itself_stays() -> None:
    told = context(StorageError("The disk is full."))
    run = open_run_from_context(told)
    run.keep_failure("quantize", told["exception"])
    before = run.failure("quantize")
    log_reason(told)
    assert run.failure("quantize") == before


def test_a_run_that_cannot_be_opened_has_the_reason_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="hpe_airflow.failures"):
        log_reason(context(ConfigError("There is no setting 'x'."), x=1))
    assert caplog.messages == ["quantize failed: There is no setting 'x'."]


def test_errors_keep_their_hint_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DatasetError("No file.", hint="Look.")))
    assert reason_of(error) == "No file. Look."
