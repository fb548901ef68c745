from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from pathlib import Path

import hpe_airflow.failures  # noqa: F401 - Airflow sets logging up as it is imported, and takes pytest's handlers away.
import pytest
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped
from hpe_airflow.task_log import reason_first, tell_rows

from hpe_tasks.errors import ConfigError, DatasetError, TransientError


def nested(error: Exception, depth: int = 6) -> None:
    if depth:
        nested(error, depth - 1)
    raise error from KeyError("inner")


@pytest.mark.parametrize(
    ("error", "level", "said", "rows"),
    [
        pytest.param(
            DatasetError("No file a.json.", hint="Check the folder."),
            logging.ERROR,
            "gate failed: No file a.json. Check the folder.",
            2,
            id="foreseen",
        ),
        pytest.param(
            TransientError("Timed out."), logging.WARNING, "gate: Timed out. It is tried again", 2, id="again"
        ),
        pytest.param(ZeroDivisionError("a bug"), logging.ERROR, "gate failed: ZeroDivisionError: a bug", 9, id="a bug"),
    ],
)
def test_the_reason_comes_before_the_traceback(
    caplog: pytest.LogCaptureFixture, error: Exception, level: int, said: str, rows: int
) -> None:
    """Of an error that was foreseen the traceback is the way to here; of a bug it is whole."""
    with caplog.at_level(logging.INFO, "hpe_airflow.task_log"), pytest.raises(type(error)) as raised:
        reason_first("gate", lambda: nested(error))
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()[: len(said)]) == (level, said)
    found = traceback.extract_tb(raised.value.__traceback__)
    assert len(found) == rows or (rows > 2 and len(found) > 2)
    assert (raised.value.__cause__ is None) == (rows == 2)


def test_what_work_gives_is_passed_on() -> None:
    assert reason_first("gate", lambda: 3) == 3


LEFT_OUT = DownstreamTasksSkipped(tasks=["b"])  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("word", [AirflowSkipException("Nothing to do."), LEFT_OUT])
def test_what_tells_airflow_what_comes_next_is_no_failure(caplog: pytest.LogCaptureFixture, word: Exception) -> None:
    with caplog.at_level(logging.INFO, "hpe_airflow.task_log"), pytest.raises(type(word)):
        reason_first("gate", lambda: nested(word))
    assert caplog.messages == []


def test_a_task_without_a_record_ends_with_a_table_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hpe_airflow.task_log"):
        tell_rows("A run is started", {"run": "watch__1", "why": "[b]drift[/b]"})
    assert caplog.messages == ["A run is started:\nrun  watch__1\nwhy  [b]drift[/b]"]


def test_where_an_error_was_raised_is_told_to_who_asks_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "hpe_airflow.task_log"), pytest.raises(ConfigError):
        reason_first("gate", lambda: nested(ConfigError("x")))
    assert "KeyError: 'inner'" in caplog.text


@pytest.mark.parametrize(("level", "shown"), [("INFO", "ours"), ("DEBUG", "ours theirs")])
def test_other_libraries_are_left_out_unless_debugging_is_asked_for(repository: Path, level: str, shown: str) -> None:
    code = (
        f"import logging, sys; sys.path.insert(0, {str(repository / 'plugins')!r})\n"
        f"logging.basicConfig(level={level!r}, format='%(message)s', stream=sys.stdout)\n"
        "from hpe_airflow.task_log import quiet_others\n"
        "quiet_others()\n"
        "logging.getLogger('hpe_tasks.pipeline').info('ours')\n"
        "logging.getLogger('botocore.credentials').info('theirs')\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert " ".join(line for line in said.splitlines() if line in {"ours", "theirs"}) == shown
