"""The DAG as a team uses it: triggered over REST, run by the scheduler, looked at by people with different rights."""

from __future__ import annotations

import html
import json
import time
import uuid
from typing import Any
from urllib.parse import quote

import pytest
import requests

from hpe_tasks.config.rungs import RUNGS
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location, make_client
from support.airflow_server import AirflowServer, airflow_server

__all__ = ["airflow_server"]

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RUNS = "/api/v2/dags/hpe_requantize/dagRuns"
NOBODY_LISTENS = {"dataset.source": "http://127.0.0.1:9/data.zip", "dataset.allow_private_addresses": True}


@pytest.fixture
def operator(airflow_server: AirflowServer) -> requests.Session:
    return airflow_server.session("operator")


def trigger(
    server: AirflowServer, session: requests.Session, settings: dict[str, Any], run_id: str | None = None
) -> requests.Response:
    body = {"logical_date": None, "conf": settings, "dag_run_id": run_id or f"test-{uuid.uuid4().hex}"}
    return session.post(server.url + RUNS, json=body, timeout=60)


@pytest.fixture(scope="module")
def finished(airflow_server: AirflowServer) -> str:
    """Id of a run that has passed its gate."""
    session = airflow_server.session("operator")
    answer = trigger(airflow_server, session, airflow_server.settings, "manual__2026-01-02T03:04:05+00:00")
    assert answer.status_code == 200, answer.text
    run = str(answer.json()["dag_run_id"])
    assert airflow_server.wait(session, run, {"success", "failed"}) == "success"
    return run


def links(server: AirflowServer, session: requests.Session, run: str, task: str) -> dict[str, str]:
    answer = session.get(f"{server.url}{RUNS}/{quote(run)}/taskInstances/{task}/links", timeout=30)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["extra_links"])


def test_every_task_succeeds_and_the_buttons_lead_to_the_runs_pages(
    airflow_server: AirflowServer, operator: requests.Session, finished: str
) -> None:
    answer = operator.get(f"{airflow_server.url}{RUNS}/{finished}/taskInstances?limit=100", timeout=30)
    states = {task["task_id"]: task["state"] for task in answer.json()["task_instances"]}
    # No recipe is searched for, nor measured in parts: that is left out, and what follows it runs all the same.
    left_out = {
        "approve",
        "choose_recipe",
        "evaluate_fp32_shards",
        "evaluate_quantized_shards",
        *(rung.step for rung in RUNGS),
    }
    assert states == {name: "skipped" if name in left_out else "success" for name in states}
    assert left_out < states.keys()
    assert links(airflow_server, operator, finished, "report").keys() == {"Report"}
    assert links(airflow_server, operator, finished, "gate") == links(airflow_server, operator, finished, "report")
    for task in ("publish", "smoke_test_lambda", "promote"):
        found = links(airflow_server, operator, finished, task)
        # The channel served nothing before that the version could be compared with.
        assert {name for name, link in found.items() if link} == {"Report", "Published version", "Version page"}
    assert links(airflow_server, operator, finished, "publish")["Version page"].startswith("/hpe/models/tiny/")
    docs = operator.get(
        airflow_server.url + links(airflow_server, operator, finished, "validate_dataset")["Data Docs"], timeout=30
    )
    assert (docs.status_code, "Great Expectations" in docs.text) == (200, True)


def tab(run: str, dag: str = "hpe_requantize") -> str:
    return f"/hpe/dags/{dag}/runs/{quote(run, safe='')}"


def test_the_runs_tab_and_note_say_what_the_run_has_come_to(
    airflow_server: AirflowServer, operator: requests.Session, finished: str
) -> None:
    viewer = airflow_server.session("viewer")
    page = viewer.get(airflow_server.url + tab(finished), timeout=30)
    assert page.status_code == 200, page.text
    assert "<h1>Published tiny " in page.text
    assert '<iframe src="/hpe/runs/' in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    note = operator.get(f"{airflow_server.url}{RUNS}/{quote(finished)}", timeout=30).json()["note"]
    assert note.startswith("**Verdict:** Published tiny ")
    views = operator.get(f"{airflow_server.url}/api/v2/plugins", timeout=30).json()["plugins"]
    (ours,) = [plugin for plugin in views if plugin["name"] == "hpe"]
    assert {view["destination"]: view["href"] for view in ours["external_views"]} == {
        "nav": "/hpe/models",
        "dag_run": "/hpe/dags/{DAG_ID}/runs/{RUN_ID}",
        "dag": "/hpe/dags/{DAG_ID}/values",
    }


def test_the_last_values_of_each_model_can_be_used_again(airflow_server: AirflowServer, finished: str) -> None:
    page = airflow_server.session("viewer").get(f"{airflow_server.url}/hpe/dags/hpe_requantize/values", timeout=30)
    assert page.status_code == 200
    assert finished in html.unescape(page.text)
    assert "recipe.calibration_images" in page.text


@pytest.mark.parametrize("page", ["/runs/{run}", "/runs/{run}/data-docs", "/values"])
def test_nobody_sees_a_tab_without_a_login(airflow_server: AirflowServer, finished: str, page: str) -> None:
    address = f"{airflow_server.url}/hpe/dags/hpe_requantize{page.format(run=quote(finished, safe=''))}"
    assert requests.get(address, timeout=30).status_code == 401
    forged = {"Authorization": "Bearer forged"}
    assert requests.get(address, headers=forged, timeout=30).status_code == 403


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(tab("none"), id="no such run"),
        pytest.param(tab("x" * 300), id="a long name"),
        pytest.param(tab("../../etc/passwd"), id="a path"),
        pytest.param(tab("none", "hpe_selftest"), id="a DAG of no pipeline"),
        pytest.param(tab("none", "<script>alert(1)</script>"), id="no DAG"),
    ],
)
def test_a_tab_of_no_run_shows_nothing(airflow_server: AirflowServer, operator: requests.Session, address: str) -> None:
    answer = operator.get(airflow_server.url + address, timeout=30)
    assert answer.status_code == 404
    assert "<script>" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.long
def test_a_channel_that_needs_a_person_moves_when_one_has_approved(
    airflow_server: AirflowServer, operator: requests.Session, finished: str
) -> None:
    """What was made for the finished run is reused; only its smoke test is left out."""
    assert finished
    settings = airflow_server.settings | {"destination.channel": "guarded", "destination.smoke_test": False}
    run = str(trigger(airflow_server, operator, settings).json()["dag_run_id"])
    task = f"{run}/taskInstances/approve"
    assert airflow_server.wait(operator, task, {"awaiting_input", "failed", "skipped"}) == "awaiting_input"
    waiting = f"{airflow_server.url}{RUNS}/{task}/-1/hitlDetails"
    asked = operator.get(waiting, timeout=30).json()
    assert asked["subject"].startswith("May guarded serve tiny ")
    assert "| Check | Observed | Limit |" in asked["body"]
    assert "Nothing: the channel is new." in asked["body"]
    viewer = airflow_server.session("viewer")
    assert viewer.patch(waiting, json={"chosen_options": ["Approve"]}, timeout=30).status_code == 403
    assert operator.patch(waiting, json={"chosen_options": ["Approve"]}, timeout=30).status_code == 200
    assert airflow_server.wait(operator, run, {"success", "failed"}) == "success"
    moved = ModelRegistry(
        make_client(**airflow_server.store.client_settings), S3Location.parse("s3://hpe-models/registry")
    )
    assert moved.show("tiny", "guarded").moved_by.endswith(", approved by operator")


def test_those_who_may_see_the_dag_may_read_the_report(airflow_server: AirflowServer, finished: str) -> None:
    viewer = airflow_server.session("viewer")
    page = viewer.get(airflow_server.url + links(airflow_server, viewer, finished, "report")["Report"], timeout=30)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "</html>" in page.text


def test_the_version_page_is_the_published_manifest(airflow_server: AirflowServer, finished: str) -> None:
    viewer = airflow_server.session("viewer")
    link = links(airflow_server, viewer, finished, "publish")["Published version"]
    manifest = viewer.get(airflow_server.url + link, timeout=30)
    assert manifest.status_code == 200, manifest.text
    assert manifest.json()["name"] == "tiny"


def test_the_pages_of_models_show_what_was_published_and_act_on_it(
    airflow_server: AirflowServer, operator: requests.Session, finished: str
) -> None:
    """Each address with each role: tests/plugins/test_model_pages.py."""
    viewer, models = airflow_server.session("viewer"), f"{airflow_server.url}/hpe/models"
    manifest = viewer.get(airflow_server.url + links(airflow_server, viewer, finished, "publish")["Published version"])
    version = manifest.json()["version"]
    shown = viewer.get(models, timeout=60)
    assert shown.status_code == 200, shown.text
    assert f"/hpe/models/tiny/{version}" in shown.text
    page = viewer.get(f"{models}/tiny/{version}", timeout=60)
    assert (page.status_code, "Model card" in page.text) == (200, True)
    assert "publish, channel staging" in page.text, "the log tells of the run's promotion"
    note = {"version": version, "note": "tried on a real server"}
    assert requests.post(f"{models}/tiny/actions/annotate", data=note, timeout=30).status_code == 401
    assert viewer.post(f"{models}/tiny/actions/annotate", data=note, timeout=30).status_code == 403
    done = operator.post(f"{models}/tiny/actions/annotate", data=note, timeout=30, allow_redirects=False)
    assert done.status_code == 303, done.text
    assert "tried on a real server" in viewer.get(f"{models}/tiny/{version}", timeout=60).text


@pytest.mark.parametrize("page", ["report", "version"])
def test_nobody_reads_a_page_without_a_login(
    airflow_server: AirflowServer, operator: requests.Session, finished: str, page: str
) -> None:
    link = links(airflow_server, operator, finished, "report")["Report"].removesuffix("report") + page
    assert requests.get(airflow_server.url + link, timeout=30).status_code == 401
    forged = {"Authorization": "Bearer forged"}
    assert requests.get(airflow_server.url + link, headers=forged, timeout=30).status_code == 403


@pytest.mark.parametrize(
    ("name", "status"),
    [
        pytest.param("no-such-run", 404, id="unknown"),
        pytest.param("..%2F..%2F..%2Fetc", 404, id="path in the name"),
        pytest.param("%2e%2e", 422, id="the folder above"),
        pytest.param(".hidden", 422, id="leading dot"),
    ],
)
def test_a_page_of_no_run_leads_nowhere(
    airflow_server: AirflowServer, operator: requests.Session, name: str, status: int
) -> None:
    request = requests.Request(
        "GET", f"{airflow_server.url}/hpe/runs/x/report", headers=dict(operator.headers)
    ).prepare()
    request.url = f"{airflow_server.url}/hpe/runs/{name}/report"
    assert operator.send(request, timeout=30).status_code == status


@pytest.mark.parametrize("place", ["/nowhere/m.onnx", "/etc/passwd"])
def test_who_cannot_start_a_run_learns_nothing_by_trying(airflow_server: AirflowServer, place: str) -> None:
    """The answer is the same whether a path exists, and whether the settings are right."""
    for settings in ({}, {"model.checkpoint": place}, {"gate.min_app": 0.5}):
        for who, status in ((airflow_server.session("viewer"), 403), (requests.Session(), 401)):
            answer = trigger(airflow_server, who, settings)
            assert answer.status_code == status, answer.text
            assert "checkpoint" not in answer.text
            assert "min_ap" not in answer.text


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        pytest.param({"gate.min_ap": 1.5}, "gate.min_ap", id="out of bounds"),
        pytest.param({"preset": "unknown"}, "preset", id="unknown preset"),
        pytest.param({"recipe.scheme": "magic"}, "recipe.scheme", id="unknown choice"),
        pytest.param({"gate.min_app": 0.5}, "gate.min_ap", id="unknown key"),
        pytest.param({"preset": "pose_resnet_50"}, "model.checkpoint", id="setting that the preset needs"),
        pytest.param({"dataset.calibration_split": "val"}, "dataset.evaluation_split", id="two splits that are one"),
        pytest.param({"gate.min_ap": True}, "gate.min_ap takes a number, not true", id="true for a number"),
        pytest.param({"recipe.fold_batch_norms": "maybe"}, "takes true or false", id="text for true or false"),
        pytest.param({"model.mean": 0.5}, "model.mean takes a list of 3 numbers", id="number for a list"),
        pytest.param({"model.checkpoint": "/nowhere/m.onnx"}, "/nowhere/m.onnx does not exist", id="no such path"),
        pytest.param({"destination.registry": "s3://nowhere/r"}, "bucket 'nowhere' does not exist", id="no bucket"),
        pytest.param({"dataset.source": "s3://nowhere/d.zip"}, "dataset.source: the bucket", id="no bucket of data"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(
    airflow_server: AirflowServer, operator: requests.Session, settings: dict[str, Any], named: str
) -> None:
    before = operator.get(airflow_server.url + RUNS, timeout=30).json()["total_entries"]
    answer = trigger(airflow_server, operator, settings)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]
    assert operator.get(airflow_server.url + RUNS, timeout=30).json()["total_entries"] == before


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"recipe.fold_batch_norms": False, "gate.min_ap": 0.25, "model.mean": [0.5, 0.5, 0.5]}, id="JSON"),
        pytest.param(
            {"recipe.fold_batch_norms": "false", "gate.min_ap": "0.25", "model.mean": "[0.5, 0.5, 0.5]"},
            id="texts",
            marks=pytest.mark.long,  # `airflow tasks test` is given texts as well
        ),
    ],
)
def test_values_may_be_json_or_its_text(
    airflow_server: AirflowServer, operator: requests.Session, given: dict[str, Any]
) -> None:
    # A run that fails at once: what counts here is what its tasks were asked.
    settings = airflow_server.settings | given | {"model.checkpoint": str(airflow_server.no_checkpoint)}
    answer = trigger(airflow_server, operator, settings)
    assert answer.status_code == 200, answer.text
    run = answer.json()["dag_run_id"]
    state = airflow_server.wait(operator, f"{run}/taskInstances/preflight", {"failed", "success"})
    operator.patch(f"{airflow_server.url}{RUNS}/{run}", json={"state": "failed"}, timeout=30).raise_for_status()
    assert state == "failed"
    folders = (airflow_server.home / ".hpe/workspace/runs").glob(f"{run}-*")
    asked = [json.loads((folder / "run.json").read_text())["config"] for folder in folders]
    (config,) = asked
    assert config["recipe"]["fold_batch_norms"] is False
    assert config["gate"]["min_ap"] == 0.25
    assert config["model"]["mean"] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("wrong_file", "state", "says"),
    [
        pytest.param(False, "up_for_retry", "127.0.0.1:9", id="network"),
        pytest.param(True, "failed", "no-checkpoint.safetensors", id="wrong file"),
    ],
)
def test_a_network_error_is_tried_again_and_a_wrong_file_is_not(
    airflow_server: AirflowServer, operator: requests.Session, wrong_file: bool, state: str, says: str
) -> None:
    wrong = NOBODY_LISTENS | ({"model.checkpoint": str(airflow_server.no_checkpoint)} if wrong_file else {})
    answer = trigger(airflow_server, operator, airflow_server.settings | wrong)
    assert answer.status_code == 200, answer.text
    run = answer.json()["dag_run_id"]
    tasks = f"{run}/taskInstances"
    assert airflow_server.wait(operator, f"{tasks}/preflight", {"failed", "up_for_retry"}) == state
    # One run is active at a time: end this one for the tests after it.
    operator.patch(f"{airflow_server.url}{RUNS}/{run}", json={"state": "failed"}, timeout=30).raise_for_status()
    log = operator.get(f"{airflow_server.url}{RUNS}/{tasks}/preflight/logs/1", timeout=30).text
    assert says in log
    assert ("preflight failed: " in log) == (state == "failed")


@pytest.mark.long
def test_a_watch_starts_one_run_whose_note_says_why(airflow_server: AirflowServer) -> None:
    admin = airflow_server.session("admin")
    dags = f"{airflow_server.url}/api/v2/dags"
    settings = airflow_server.settings | {"destination.name": "watched"}

    def look() -> dict[str, str]:
        """Have the scheduler run the watch; states of its tasks."""
        answer = admin.post(f"{dags}/hpe_watch/dagRuns", json={"logical_date": None, "conf": settings}, timeout=120)
        assert answer.status_code == 200, answer.text
        run = f"{dags}/hpe_watch/dagRuns/{quote(answer.json()['dag_run_id'])}"
        deadline = time.monotonic() + 400
        while (state := admin.get(run, timeout=120).json()["state"]) not in {"success", "failed"}:
            assert time.monotonic() < deadline, f"the watch is {state}; see {airflow_server.home}/.airflow/logs"
            time.sleep(0.5)
        assert state == "success"
        tasks = admin.get(f"{run}/taskInstances", timeout=120).json()["task_instances"]
        return {task["task_id"]: task["state"] for task in tasks}

    def started() -> list[dict[str, Any]]:
        runs = admin.get(airflow_server.url + RUNS, timeout=120).json()["dag_runs"]
        return [run for run in runs if run["dag_run_id"].startswith("watch__")]

    # Whether that run comes to a good end, other tests tell.
    admin.patch(f"{dags}/hpe_requantize", json={"is_paused": True}, timeout=120).raise_for_status()
    try:
        untold = {"tell_moves": "skipped"}
        assert look() == {"evaluate_triggers": "success", "start_requantize": "success"} | untold
        (run,) = started()
        assert run["note"] == "first: channel staging of watched serves nothing yet"
        assert run["conf"]["destination.name"] == "watched"
        assert look() == {"evaluate_triggers": "skipped", "start_requantize": "skipped"} | untold
        assert len(started()) == 1
    finally:
        for run in started():
            admin.delete(f"{airflow_server.url}{RUNS}/{run['dag_run_id']}", timeout=120)
        admin.patch(f"{dags}/hpe_requantize", json={"is_paused": False}, timeout=120).raise_for_status()
