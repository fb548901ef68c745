"""Airflow's own application with the pages about models, on a bucket with versions of one model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import onnx
import pytest
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi.testclient import TestClient
from hpe_airflow.model_pages import store

from hpe_tasks.config.run import RunConfig
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import open_run
from hpe_tasks.registry.manifest import GoldenImage, GoldenPerson
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from support import run_cases
from support import sample_records as records
from support.catalogued import leave
from support.no_s3 import no_s3
from support.tiny_networks import pose_onnx

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

LOCATION = S3Location("models", "registry")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
COOKIE = "_token"
FORGED_NAMES = ["..", ".hidden", "a/b", "../../etc/passwd", "x" * 300, "a\0b", "Ä", "-", "a b", "%2e%2e"]


@pytest.fixture(scope="module")
def airflow(airflow_database: Any) -> Iterator[Any]:
    """Airflow's API application with this project's plugin, as its API server serves it."""
    from airflow.api_fastapi.app import create_app

    app = create_app(apps="core")
    with TestClient(app, base_url="http://airflow.local", raise_server_exceptions=False) as browser:
        yield browser


class World:
    """Versions of one model: `old` and `new`, of which a channel serves the old one, and a browser for each role."""

    def __init__(self, airflow: TestClient, s3: Any, folder: Path) -> None:
        self.airflow, self.s3 = airflow, s3
        self.registry = ModelRegistry(s3, LOCATION, actor="ada")
        self.old, self.new = (self.publish(folder / word, word) for word in ("old", "new"))
        self.registry.promote("pose", self.old, "staging")

    def publish(self, folder: Path, word: str, name: str = "pose", **described: Any) -> str:
        files = records.write_files(folder, word)
        network = pose_onnx(shape=("batch", 3, 256, 192), joints=17)
        network.doc_string = word
        onnx.save(network, files["model"])
        files["golden-1"] = folder / "golden-1"
        files["golden-1"].write_bytes(PNG)
        joints = tuple((10.0 + number, 20.0, 0.9) for number in range(17))
        person = GoldenPerson(box=(0, 0, 50, 50), joints=joints)
        told = {"run": "<b>run</b>", "created_by": 'ada"><script>alert(1)</script>', "speed": records.latency()}
        told["created_at"] = datetime(2026, 1, 1 if word == "old" else 2, tzinfo=UTC)
        made = records.manifest(files, **{**told, **described})
        golden = GoldenImage(file="golden-1", width=64, height=48, people=(person,))
        return self.registry.store(made.model_copy(update={"golden": (golden,)}), files).version

    def token(self, role: str | None) -> str:
        from airflow.api_fastapi.app import get_auth_manager

        return get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=f"{role}-person", role=role))

    def ask(self, method: str, path: str, role: str | None = "viewer", **more: Any) -> Any:
        """A request of a browser that this role is logged in with; None is nobody."""
        self.airflow.cookies.clear()
        if role is not None:
            self.airflow.cookies.set(COOKIE, self.token(role))
        return self.airflow.request(method, f"/hpe{path}", follow_redirects=False, **more)

    def form(self, action: str, **subjects: str) -> dict[str, str]:
        """The fields of the page that asks whether an action is meant."""
        asked = self.ask("GET", f"/models/pose/actions/{action}", "admin", params=subjects)
        assert asked.status_code == 200, asked.text[-2000:]
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', asked.text.replace("&#34;", "'")))

    def act(self, action: str, form: dict[str, str], role: str | None = "admin", **more: Any) -> Any:
        fields = {key: value.replace("'", '"') for key, value in form.items()}
        return self.ask("POST", f"/models/pose/actions/{action}", role, data=fields, **more)

    def serves(self) -> str:
        return self.registry.show("pose", "staging").version


def open_page(world: World, browser: Browser, scheme: str = "light", width: int = 1280) -> Page:
    """A browser's tab whose requests the application answers, to somebody who may act."""

    def answer(route: Route) -> None:
        asked = urlsplit(route.request.url)
        path = f"{asked.path.removeprefix('/hpe')}?{asked.query}"
        sent = {name: value for name, value in route.request.headers.items() if name in ("content-type", "origin")}
        got = world.ask(route.request.method, path, "admin", content=route.request.post_data_buffer, headers=sent)
        route.fulfill(status=got.status_code, headers=dict(got.headers), body=got.content)

    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    context.route("http://airflow.local/**", answer)
    return context.new_page()


def refused_run(workspace: Path, name: str = "friday", **changes: Any) -> None:
    """A run that its gate refused, as its steps leave it."""
    case = run_cases.gate_failed()
    config: RunConfig = records.run_config(**changes)
    run = open_run(config, workspace=workspace.as_uri(), cache=workspace / "cache", name=name, s3=no_s3)
    left = {
        steps.evaluate_fp32: case.fp32,
        steps.export_onnx: case.exported,
        steps.evaluate_quantized: case.quantized_evaluation,
        steps.gate: case.decision,
    }
    for step, record in left.items():
        leave(run, step, record)


@pytest.fixture
def world(airflow: TestClient, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("HPE_REGISTRY", str(LOCATION))
    monkeypatch.setenv("HPE_WORKSPACE", (tmp_path / "w").as_uri())
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "s3_client", lambda: client)
    monkeypatch.setattr(store, "signing_key", lambda: None)
    return World(airflow, client, tmp_path)
