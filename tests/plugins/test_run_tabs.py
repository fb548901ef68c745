"""The tabs of a run and of last values, in Airflow's own application: who may see them, how they read, forged names."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hpe_airflow import run_tab

from support.chromium import chromium, chromium_browser, hindrances
from support.model_pages import FORGED_NAMES, World, airflow, open_page, refused_run, world
from support.played_s3 import client, moto_client

__all__ = ["airflow", "chromium", "client", "moto_client", "world"]

DAG, RUN = "hpe_requantize", "manual__friday+night"
TAB, DATA_DOCS, VALUES = f"/dags/{DAG}/runs/{quote(RUN, safe='')}", "data-docs", f"/dags/{DAG}/values"


@pytest.fixture
def told(world: World, tmp_path: Path) -> Iterator[World]:
    """Airflow knows of a run that the gate has refused."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunType

    refused_run(tmp_path / "w", RUN)
    run = DagRun(
        dag_id=DAG,
        run_id=RUN,
        run_type=DagRunType.MANUAL,
        state=DagRunState.SUCCESS,
        start_date=datetime(2026, 11, 20, 12, tzinfo=UTC),
        run_after=datetime(2026, 11, 20, 12, tzinfo=UTC),
        conf={"preset": "sample", "destination.name": "<script>alert(1)</script>"},
    )
    with create_session() as session:
        session.add(run)
    yield world
    with create_session() as session:
        session.query(DagRun).filter(DagRun.run_id == RUN).delete()


def test_every_tab_is_for_those_who_may_see_runs(told: World) -> None:
    for path, status in ((TAB, 200), (f"{TAB}/{DATA_DOCS}", 404), (VALUES, 200)):
        assert told.ask("GET", path, None).status_code == 401, path
        told.airflow.cookies.clear()
        forged = told.airflow.get(f"/hpe{path}", headers={"Authorization": "Bearer forged"})
        assert forged.status_code == 403, path
        answer = told.ask("GET", path)
        assert answer.status_code == status, (path, answer.text[-2000:])
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'"), path
        assert "unsafe" not in policy
        assert "<script>alert" not in answer.text
        for method in ("POST", "PUT", "DELETE"):
            assert told.ask(method, path, "admin").status_code in {405, 413}, (method, path)
    assert "This run has no Data Docs" in told.ask("GET", f"{TAB}/{DATA_DOCS}").text
    known = {route.path for route in run_tab.build_app().routes}  # type: ignore[attr-defined]
    assert known == {"/{dag_id}/runs/{run_id}", "/{dag_id}/runs/{run_id}/data-docs", "/{dag_id}/values"}


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        pytest.param({}, "sample-pose", id="the form as it is"),
        pytest.param({"preset": "pose_resnet_50", "model.checkpoint": "a.pth"}, "pose-resnet-50", id="a preset"),
        pytest.param({"preset": "of_yesterday"}, "of_yesterday", id="a preset that is gone"),
        pytest.param({"preset": None, "destination.name": "knees"}, "knees", id="a name"),
    ],
)
def test_last_values_go_by_the_name_that_a_run_publishes_under(told: World, asked: dict[str, Any], shown: str) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        session.query(DagRun).filter(DagRun.run_id == RUN).one().conf = asked
    assert f"<summary><b>{shown}</b>" in told.ask("GET", VALUES).text


@pytest.mark.parametrize("name", FORGED_NAMES, ids=lambda name: name[:20])
def test_a_forged_name_leads_nowhere(world: World, name: str) -> None:
    place = quote(name, safe="").replace(".", "%2E")
    for path in (f"/dags/{place}/runs/{RUN}", f"/dags/{DAG}/runs/{place}", f"/dags/{DAG}/runs/{place}/{DATA_DOCS}"):
        answer = world.ask("GET", path, "admin")
        assert answer.status_code in (400, 404, 422), (path, answer.status_code, answer.text[:300])
    assert world.ask("GET", f"/dags/{place}/values", "viewer").status_code in (200, 403, 404, 422)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("scheme", "width"), [pytest.param("light", 1280, marks=pytest.mark.long), ("dark", 1280), ("light", 390)]
)
def test_nothing_keeps_people_from_using_a_tab(
    told: World, chromium: str, scheme: str, width: int, tmp_path: Path
) -> None:
    """No serious finding of axe-core's, no error in the console, and nothing wider than the screen."""
    found: dict[str, list[str]] = {}
    with chromium_browser(chromium) as browser:
        page = open_page(told, browser, scheme, width)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        for path in (TAB, VALUES):
            answered = page.goto(f"http://airflow.local/hpe{path}")
            assert answered is not None
            assert answered.status == 200
            page.screenshot(path=tmp_path / f"{path.rpartition('/')[2]}.png", full_page=True)
            found[path] = hindrances(page, width)
            # By keyboard: what can be pressed is reached.
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.tagName") in {"A", "BUTTON", "SUMMARY"}
    assert {path: what for path, what in found.items() if what} == {}
    assert said == []
