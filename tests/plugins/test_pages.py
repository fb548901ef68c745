"""The pages of Airflow's API server, without its login: which runs they open, and what browsers are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hpe_airflow import pages
from hpe_airflow.links import report_path

from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import StorageError
from hpe_tasks.pipeline.runs import open_run
from support.no_s3 import no_s3


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HPE_WORKSPACE", (tmp_path / "w").as_uri())
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "cache"))
    return (tmp_path / "w").as_uri()


@pytest.fixture
def browser(workspace: str) -> Iterator[TestClient]:
    """A client of the pages that may see every run."""
    app = pages.build_app()
    app.dependency_overrides[pages._allowed] = lambda: None
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


NAMES = [
    "manual__2026-01-02T03:04:05+00:00",
    "-begins-with-a-dash",
    ".begins-with-a-dot",
    "..",
    "~tilde, and spaces ",
    "größe² ①",
    "夜" * 100,
    "x" * 290,
    "/a/../b",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_every_run_has_a_page(browser: TestClient, workspace: str, tmp_path: Path, name: str) -> None:
    run = open_run(load_config("sample"), workspace=workspace, cache=tmp_path / "c", name=name, s3=no_s3)
    assert len(run.name.encode()) <= 255
    answer = browser.get(report_path(run.name).removeprefix("/hpe"))
    # The run is there; it has not come to its report.
    assert answer.status_code == 404
    assert "has no result of the step report" in answer.text


def test_runs_whose_long_names_begin_alike_do_not_meet(workspace: str, tmp_path: Path) -> None:
    names = {
        open_run(load_config("sample"), workspace=workspace, cache=tmp_path, name="x" * 290 + end, s3=no_s3).name
        for end in ("", "a", "b")
    }
    assert len(names) == 3


@pytest.mark.parametrize(
    "name", ["..", ".hidden", "a/b", "../../etc/passwd", "a\\b", "", "a b", "a\0", "\u200d", "a\n"]
)
def test_a_name_that_leads_out_of_the_workspace_is_no_run(browser: TestClient, name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a run"):
        pages.run_name(name)
    assert browser.get(f"/runs/{quote(name, safe='')}/report").status_code in {404, 422}


@pytest.mark.parametrize("length", [290, 1000, 20_000])
def test_a_long_name_of_no_run_is_not_found(browser: TestClient, workspace: str, tmp_path: Path, length: int) -> None:
    open_run(load_config("sample"), workspace=workspace, cache=tmp_path, name="another", s3=no_s3)
    answer = browser.get(f"/runs/{'x' * length}/report")
    assert (answer.status_code, "runs are called" in answer.text) == (404, True)


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/runs/none/report", 404),
        ("/runs/none/version", 404),
        ("/runs/.hidden/version", 422),
        ("/elsewhere", 404),
        ("/runs/fails/version", 500),
        ("/runs/storage/version", 502),
        ("/runs/good/version", 200),
    ],
)
def test_browsers_are_told_to_take_answers_for_what_they_are(
    browser: TestClient, monkeypatch: pytest.MonkeyPatch, address: str, status: int
) -> None:
    looked_up = pages._run

    def run(name: str) -> Any:
        if name == "fails":
            raise KeyError(name)
        if name == "storage":
            raise StorageError("The disk is gone.")
        return name if name == "good" else looked_up(name)

    monkeypatch.setattr(pages, "_run", run)
    monkeypatch.setattr(pages, "_record", lambda run, step: run)
    monkeypatch.setattr(pages, "_manifest", lambda record: b'{"name": "<script>alert(1)</script>"}')
    answer = browser.get(address)
    assert answer.status_code == status
    assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"]
    assert answer.headers.get_list("Content-Security-Policy") == [
        "default-src 'none'; base-uri 'none'; form-action 'none'"
    ]


def test_a_report_keeps_its_own_policy(browser: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<!doctype html><title>Report</title>")

    class Stored:
        """The parts of a run that the page looks at."""

        html = None
        workspace = type("Workspace", (), {"local": staticmethod(lambda artifact: tmp_path / "report.html")})

    monkeypatch.setattr(pages, "_run", lambda name: Stored)
    monkeypatch.setattr(pages, "_record", lambda run, step: run)
    answer = browser.get("/runs/good/report")
    assert answer.status_code == 200
    (policy,) = answer.headers.get_list("Content-Security-Policy")
    assert "img-src data:" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
