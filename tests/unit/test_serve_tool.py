"""When `make serve` publishes the sample first. How it does: tests/e2e/test_serve_page.py."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from moto import mock_aws

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "t", "AWS_SECRET_ACCESS_KEY": "t", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def tool(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("serve_tool", repository / "tools" / "serve.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "t"),
        ("AWS_SECRET_ACCESS_KEY", "t"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="hpe-models")
        yield client


class Served(Exception):
    """This process would have become `hpe serve` with these arguments."""


@pytest.fixture
def run(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    def instead(_: str, arguments: list[str]) -> None:
        raise Served(*arguments[1:])

    def main(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["serve.py", *arguments])
        monkeypatch.setattr(os, "execv", instead)
        return int(tool.main())

    return main


def test_a_run_that_fails_is_not_served(
    run: Any, bucket: Any, repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(repository))
    monkeypatch.setenv("HPE_WORKSPACE", "ftp://nowhere")
    assert run("--own-store") == 2
    said = capfd.readouterr()
    assert "published first, as `make run` does it" in said.out
    assert "ftp://nowhere" in said.err
    assert "so there is nothing to serve" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--own-store", "--name", "mine"],
        ["--own-store", "--channel", "production"],
        ["--own-store", "--registry", "s3://mine/registry"],
    ],
    ids=["another server", "another model", "another channel", "another registry"],
)
def test_nothing_is_published_that_nobody_asked_for(run: Any, bucket: Any, arguments: list[str]) -> None:
    with pytest.raises(Served) as served:
        run(*arguments)
    assert served.value.args[0] == "serve"
    assert bucket.list_objects_v2(Bucket="hpe-models")["KeyCount"] == 0


def test_a_channel_that_serves_something_is_served(run: Any, bucket: Any) -> None:
    bucket.put_object(Bucket="hpe-models", Key="registry/models/sample-pose/channels/staging.json", Body=b"{}")
    with pytest.raises(Served) as served:
        run("--own-store", "--port", "8090")
    assert served.value.args == (
        "serve", "sample-pose", "--channel", "staging", "--registry", "s3://hpe-models/registry", "--port", "8090"
    )  # fmt: skip


def test_a_server_that_does_not_answer_is_named(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "t"),
        ("AWS_SECRET_ACCESS_KEY", "t"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
    assert run("--own-store") == 2
    assert "hpe-models" in capsys.readouterr().err
