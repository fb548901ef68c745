"""What each task of each DAG writes to its log, whoever has written the task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hpe_airflow.failures import log_reason

from hpe_tasks.errors import ConfigError

DAGS = ("hpe_requantize", "hpe_retrain", "hpe_selftest", "hpe_watch")


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """A process of its own has each task; here the levels are put back."""
    names = ("", "hpe_tasks", "hpe_airflow", "airflow", "task")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def works(dag: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What each task does, by its name."""
    for task in dag.tasks:
        kept: dict[str, Any] = getattr(task, "partial_kwargs", {})
        function = kept.get("python_callable") or getattr(task, "python_callable", None)
        if function is None:
            yield task.task_id, partial(type(task).execute, task, {"params": {}})
        else:
            asked = {"lane": 0} if task.task_id.endswith("_shards") else {}
            yield task.task_id, partial(function, **asked)


@pytest.mark.parametrize("dag_id", DAGS)
def test_each_task_says_first_why_it_fails_and_leaves_others_out(
    dag_bag: Any, dag_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings that no task can start with: what is told of them is told before Airflow's traceback."""
    monkeypatch.setenv("HPE_CACHE_MAX_GB", "much")
    context: dict[str, Any] = {"params": {}, "run_id": "r", "logical_date": None}
    monkeypatch.setattr("airflow.sdk.get_current_context", lambda: context)
    tried = 0
    for name, work in works(dag_bag.dags[dag_id]):
        logging.getLogger().setLevel(logging.INFO)
        caplog.clear()
        with (
            caplog.at_level(logging.INFO, "hpe_airflow.task_log"),
            pytest.raises(ConfigError, match="HPE_CACHE_MAX_GB"),
        ):
            work()
        assert [text.startswith(f"{name} failed: HPE_CACHE_MAX_GB") for text in caplog.messages] == [True], name
        assert logging.getLogger().level == logging.WARNING, f"{name} lets other libraries talk"
        tried += 1
    assert tried == len(dag_bag.dags[dag_id].tasks) > 0


@pytest.mark.parametrize("dag_id", DAGS)
def test_each_task_tells_the_reason_of_what_its_work_does_not_see(dag_bag: Any, dag_id: str) -> None:
    """Airflow's time limit, and processes that were killed."""
    for task in dag_bag.dags[dag_id].tasks:
        assert log_reason in task.on_failure_callback, task.task_id


@pytest.mark.parametrize("dag_id", ["hpe_watch", "hpe_selftest"])
def test_what_is_no_pipelines_run_leaves_no_run_behind(
    dag_id: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HPE_WORKSPACE", tmp_path.as_uri())
    context = {
        "dag": SimpleNamespace(dag_id=dag_id),
        "ti": SimpleNamespace(task_id="look"),
        "exception": ConfigError("No."),
        "params": {},
        "run_id": "r",
    }
    with caplog.at_level(logging.ERROR, "hpe_airflow.failures"):
        log_reason(context)
    assert caplog.messages == ["look failed: No."]
    assert list(tmp_path.iterdir()) == []
