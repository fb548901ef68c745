from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hpe_airflow.links import ReportLink, VersionLink, report_path, version_path
from hpe_airflow.runs import open_run_from_context, run_name


@pytest.mark.parametrize(
    ("context", "name"),
    [
        pytest.param({"logical_date": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}, "2026-01-02T030405", id="a date"),
        pytest.param(
            {"logical_date": datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=UTC), "run_id": "temporary"},
            "2026-01-02T030405.000060",
            id="a date of the form's precision; the run id plays no part",
        ),
        pytest.param(
            {"logical_date": None, "run_id": "manual__2026-01-02T03:04:05"}, "manual__2026-01-02T03:04:05", id="no date"
        ),
        pytest.param({"run_id": "asset_triggered__x"}, "asset_triggered__x", id="started by an asset"),
    ],
)
def test_all_tasks_of_a_run_have_one_name(context: dict[str, Any], name: str) -> None:
    assert run_name(context) == name


class Instance:
    """The part of a task instance that a link reads."""

    def __init__(self, context: dict[str, Any]) -> None:
        self._context = context

    def get_template_context(self) -> dict[str, Any]:
        return self._context


def test_the_links_lead_to_the_run_that_the_task_worked_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HPE_WORKSPACE", tmp_path.as_uri())
    context: dict[str, Any] = {"logical_date": None, "run_id": "manual__2026-01-02T03:04:05+00:00", "params": {}}
    run = open_run_from_context(context)
    key: Any = Instance(context)
    assert ReportLink().get_link(None, ti_key=key) == report_path(run.name)  # type: ignore[arg-type]
    assert VersionLink().get_link(None, ti_key=key) == version_path(run.name)  # type: ignore[arg-type]
    assert "+" not in report_path(run.name)


def test_a_credential_of_an_address_is_masked_in_logs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from airflow.sdk._shared.secrets_masker import redact

    monkeypatch.setenv("HPE_WORKSPACE", tmp_path.as_uri())
    address = "https://ada:tr0ub4dor@host.example/w.pth?X-Amz-Expires=86400&X-Amz-Signature=5ig7a7ure"
    open_run_from_context({"run_id": "r", "params": {"model.checkpoint": address}})
    told = str(redact(f"GET {address} failed"))
    assert "tr0ub4dor" not in told
    assert "5ig7a7ure" not in told
    assert "86400" in told
