"""Brackets within brackets, which end Python's stack where they are read: what is said is an error that names them."""

from __future__ import annotations

import asyncio
import importlib.util
import shlex
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from hpe_airflow.lazy_app import Receive, Scope, Send
from hpe_airflow.params_form import config_from_params, form_params
from hpe_airflow.trigger_check import TriggerCheck

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.yaml_text import load_value
from hpe_tasks.errors import ConfigError
from hpe_tasks.report.commands import command_with

DEEP = "[" * 100_000


def read_conf(text: str) -> Any:
    file = Path(__file__).parents[2] / "tools" / "run_dag.py"
    spec = importlib.util.spec_from_file_location("run_dag", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.read_conf("sample", text)


def values_within(depth: int) -> list[Any]:
    values: list[Any] = []
    for _ in range(depth):
        values = [values]
    return values


@pytest.mark.parametrize(
    ("read", "says"),
    [
        pytest.param(lambda: config_from_params({"model.mean": DEEP}), "model.mean takes a list of 3", id="list"),
        pytest.param(lambda: config_from_params({"model.mean": values_within(900)}), "takes a list of 3", id="values"),
        pytest.param(lambda: config_from_params({"model.mean": values_within(5000)}), "too many others", id="too deep"),
        pytest.param(lambda: form_params(DEEP), "default parameters are not JSON", id="default parameters"),
        pytest.param(lambda: read_conf(DEEP), "CONF is not JSON", id="CONF"),
        pytest.param(lambda: read_conf('{"a": ' + DEEP), "CONF is not JSON", id="value in CONF"),
    ],
)
def test_what_lies_too_deep_is_told(read: Any, says: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=says):
        read()


@pytest.mark.parametrize("text", ["[" * 3000, "{a: " * 3000, "2026-99-99", "a\nb: c", "--- a\n--- b"])
def test_a_text_that_yaml_cannot_hold_is_quoted(text: str) -> None:
    config = load_config("pose_resnet_50", overrides={"model.checkpoint": text, "dataset.source": "/coco"})
    words = shlex.split(command_with(config, ["gate.min_ap=0.5"], "hpe"))
    (checkpoint,) = (word for word in words if word.startswith("model.checkpoint="))
    assert load_value(checkpoint.partition("=")[2]) == text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"conf": ' + DEEP.encode(), 200),  # no trigger: Airflow itself says so
        (b'{"conf": {"model.mean": "' + DEEP.encode() + b'"}}', 400),
    ],
)
def test_a_trigger_with_them_is_answered(body: bytes, status: int) -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def anybody(_scope: Scope, _dag_id: str) -> bool:
        return True

    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/api/v2/dags/hpe_requantize/dagRuns"}
    asyncio.run(TriggerCheck(app, may=anybody)(scope, receive, send))
    assert sent[0]["status"] == status
