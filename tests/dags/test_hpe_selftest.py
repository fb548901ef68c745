"""The DAG of the self-test: one task, which fails when a guard has let its fault through."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from hpe_tasks.records.selftest import SelfTest
from hpe_tasks.selftest.faults import FAULTS


@pytest.fixture(scope="session")
def dag(dag_bag: Any) -> Any:
    return dag_bag.dags["hpe_selftest"]


def test_it_is_one_task_without_retries_of_what_fails(dag: Any) -> None:
    assert [task.task_id for task in dag.tasks] == ["try_guards"]
    assert "guard" in dag.doc_md


@pytest.mark.long
def test_the_task_fails_when_a_guard_lets_its_fault_through(
    dag: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("selftest")
    monkeypatch.setenv("HPE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HPE_WORKSPACE", str(folder / "workspace"))
    fault = tuple(fault for fault in FAULTS if fault.name == "unsigned_publication")
    monkeypatch.setattr("hpe_tasks.selftest.running.FAULTS", fault)

    def run(day: int) -> str:
        return str(dag.test(logical_date=datetime(2026, 3, day, tzinfo=UTC)).state)

    assert run(1) == "success"
    monkeypatch.setattr("hpe_tasks.pipeline.steps.publishing.signature_required_by", lambda _: None)
    assert run(2) == "failed"
    kept = [SelfTest.model_validate_json(file.read_bytes()) for file in folder.rglob("selftest/*/result.json")]
    assert sorted(record.passed for record in kept) == [False, True]
    assert len(list(folder.rglob("selftest/*/report.html"))) == 2
