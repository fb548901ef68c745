from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from hpe_airflow import trigger_check
from hpe_airflow.lazy_app import LazyApp, Receive, Scope, Send
from hpe_airflow.trigger_check import MayTrigger, TriggerCheck

from support.faulty_server import serve

TRIGGER = "/api/v2/dags/hpe_requantize/dagRuns"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers 200 with the body that it was given."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def anybody(_: Scope, __: str) -> bool:
    return True


def post(
    path: str, body: bytes, *, method: str = "POST", pieces: int = 1, may: MayTrigger = anybody
) -> tuple[int, bytes]:
    size = -(-len(body) // pieces) or 1
    parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    waiting = [{"type": "http.request", "body": p, "more_body": i < len(parts) - 1} for i, p in enumerate(parts)]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return waiting.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(TriggerCheck(echo, may)({"type": "http", "method": method, "path": path}, receive, send))
    return sent[0]["status"], sent[1]["body"]


def conf(**settings: Any) -> bytes:
    return json.dumps({"logical_date": None, "conf": settings}).encode()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        pytest.param(conf(**{"gate.min_app": 0.5}), "gate.min_ap", id="unknown key, with the one that was meant"),
        pytest.param(conf(preset="pose_resnet_50"), "model.checkpoint", id="what the preset needs"),
        pytest.param(conf(**{"dataset.calibration_split": "val"}), "dataset.evaluation_split", id="one split"),
        pytest.param(conf(**{"model.input_width": 100}), "multiples of 32", id="size that the network cannot have"),
        pytest.param(conf(**{"gate.min_ap": 7}), "gate.min_ap: Input should be less than", id="out of bounds"),
        pytest.param(conf(**{"gate.min_ap": "7"}), "gate.min_ap: Input should be less than", id="text out of bounds"),
        pytest.param(conf(**{"gate.min_ap": True}), "gate.min_ap takes a number, not true", id="true for a number"),
        pytest.param(conf(**{"recipe.fold_batch_norms": 1}), "takes true or false, not 1", id="number for true"),
        pytest.param(conf(**{"model.mean": 0.5}), "takes a list of 3 numbers, not 0.5", id="number for a list"),
        pytest.param(conf(preset="unknown"), "Choose one of: sample", id="unknown preset"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_at_the_trigger(body: bytes, named: str) -> None:
    status, answer = post(TRIGGER, body)
    assert status == 400
    assert named in json.loads(answer)["detail"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(TRIGGER, conf(), id="nothing asked"),
        pytest.param(TRIGGER, conf(preset="sample", **{"gate.min_ap": 0.4}), id="valid"),
        pytest.param(TRIGGER, b'{"logical_date": null}', id="no conf"),
        pytest.param(TRIGGER, b'{"logical_date": null, "conf": null}', id="null conf"),
        pytest.param(TRIGGER, conf(**{"recipe.fold_batch_norms": False, "gate.min_ap": 1}), id="JSON's types"),
        pytest.param(TRIGGER, conf(**{"recipe.fold_batch_norms": "false", "gate.min_ap": "1"}), id="their texts"),
        pytest.param(TRIGGER, b"{not json", id="no JSON: Airflow's own answer"),
        pytest.param(TRIGGER, b'{"conf": [1]}', id="no object: Airflow's own answer"),
        pytest.param(TRIGGER, b"", id="empty"),
        pytest.param("/api/v2/dags/another/dagRuns", conf(**{"gate.min_app": 1}), id="another DAG"),
        pytest.param(f"{TRIGGER}/x/clear", conf(**{"gate.min_app": 1}), id="another call"),
        pytest.param(TRIGGER, b"x" * 3_000_000, id="longer than any configuration"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 3])
def test_everything_else_passes_untouched(path: str, body: bytes, pieces: int) -> None:
    assert post(path, body, pieces=pieces) == (200, body)


@pytest.mark.parametrize("dag_id", ["hpe_requantize", "hpe_retrain", "hpe_watch"])
def test_who_may_not_trigger_learns_nothing(dag_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what settings are wrong nor which places exist, and no server is asked with this one's credentials."""
    body = conf(**{"gate.min_app": 0.5, "model.checkpoint": "/nowhere/m.onnx"})
    asked: list[str] = []

    async def nobody(_: Scope, dag: str) -> bool:
        asked.append(dag)
        return False

    path = f"/api/v2/dags/{dag_id}/dagRuns"
    assert post(path, body)[0] == 400
    monkeypatch.setattr(trigger_check, "_problem", lambda _: pytest.fail("nobody may ask"))
    assert post(path, body, may=nobody) == (200, body)
    assert asked == [dag_id]


@pytest.mark.usefixtures("airflow_database")
def test_a_checkpoint_that_its_server_does_not_have_is_refused_asked_with_the_servers_login(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trigger_check, "tasks_run_here", lambda: True)
    with serve(b"weights") as site:
        site.files = {"/m.safetensors": b"weights"}
        port = int(site.address.rpartition(":")[2])
        login = {
            "conn_type": "http",
            "host": "127.0.0.1",
            "schema": "http",
            "port": port,
            "login": "ada",
            "password": "p",
        }
        monkeypatch.setenv("AIRFLOW_CONN_HPE_WEB_127_0_0_1", json.dumps(login))
        address = f"{site.address}/m.safetensors"
        asked = {"preset": "sample", "dataset.allow_private_addresses": True}
        assert post(TRIGGER, conf(**asked, **{"model.checkpoint": address}))[0] == 200
        status, answer = post(TRIGGER, conf(**asked, **{"model.checkpoint": f"{address}.gz"}))
        told = f"model.checkpoint: {address}.gz does not exist (HTTP 404). Check the address."
        assert (status, json.loads(answer)) == (400, {"detail": told})
        assert site.headers_sent("Authorization") == ["Basic YWRhOnA="] * 2
        # Unless it is said to be meant, nothing of this network is asked.
        assert post(TRIGGER, conf(preset="sample", **{"model.checkpoint": address}))[0] == 400
        assert len(site.requests) == 2


def test_other_methods_pass() -> None:
    assert post(TRIGGER, conf(**{"gate.min_app": 1}), method="GET")[0] == 200


def test_a_path_before_the_api_is_part_of_the_address() -> None:
    assert post(f"/airflow{TRIGGER}/", conf(**{"gate.min_app": 1}))[0] == 400


def test_an_app_is_built_at_its_first_request() -> None:
    app = LazyApp("no.such.module:build")
    with pytest.raises(ModuleNotFoundError):
        asyncio.run(app({"type": "http"}, None, None))  # type: ignore[arg-type]
