from __future__ import annotations

import logging
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import RetryAction
from hpe_airflow.failures import RETRIES, log_reason, reason_of

from hpe_tasks.errors import AccessError, ConfigError, DatasetError, StorageError, TransientError


@pytest.mark.parametrize(
    ("error", "action"),
    [
        pytest.param(TransientError("The server failed."), RetryAction.RETRY, id="network"),
        pytest.param(ConfigError("There is no preset 'x'."), RetryAction.FAIL, id="configuration"),
        pytest.param(DatasetError("No keypoints."), RetryAction.FAIL, id="data"),
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


def test_the_callback_names_the_task(caplog: pytest.LogCaptureFixture) -> None:
    context = {"ti": SimpleNamespace(task_id="quantize"), "exception": ConfigError("There is no recipe 'x'.")}
    with caplog.at_level(logging.ERROR, logger="hpe_airflow.failures"):
        log_reason(context)
    assert caplog.messages == ["quantize failed: There is no recipe 'x'."]


def test_errors_keep_their_hint_between_processes() -> None:
    error = pickle.loads(pickle.dumps(DatasetError("No file.", hint="Look.")))
    assert reason_of(error) == "No file. Look."
