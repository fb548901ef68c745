"""The DAG that looks for a reason to quantize again, with Airflow's own database: what it starts, and how often."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hpe_tasks.cli.app import app
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.local_workspace import LocalWorkspace
from hpe_tasks.storage.s3 import S3Location, make_client
from hpe_tasks.watching.inputs import made_of_now
from support import sample_records as records
from support.receivers import http_receiver, mail_receiver, wait_for
from support.request_logs import answered, as_files, spread
from support.retrained import config_of
from support.watched_versions import serve, version_made_of

pytestmark = pytest.mark.usefixtures("s3_server")


@pytest.fixture(scope="session")
def dag(dag_bag: Any) -> Any:
    return dag_bag.dags["hpe_watch"]


@pytest.fixture
def watched(small_run: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Settings of a run whose model no channel serves yet."""
    monkeypatch.setenv("HPE_WORKSPACE", (tmp_path / "workspace").as_uri())
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "cache"))
    yield {**small_run, "destination.name": tmp_path.name.replace("_", "-")[-40:].strip("-")}
    forget_runs()


def started() -> list[Any]:
    """The runs of hpe_requantize that wait for a scheduler."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        runs = session.scalars(select(DagRun).where(DagRun.dag_id == "hpe_requantize")).all()
        return [(run.run_id, str(run.state), run.note, dict(run.conf or {})) for run in runs]


def forget_runs() -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    with create_session() as session:
        session.execute(delete(DagRun).where(DagRun.dag_id == "hpe_requantize"))


def states(dag: Any, day: int, conf: dict[str, Any]) -> dict[str, str]:
    run = dag.test(logical_date=datetime(2026, 4, day, tzinfo=UTC), run_conf=conf)
    found = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
    assert found.pop("tell_moves") == "skipped"  # Nobody wants to be told.
    return {"run": str(run.state), **found}


def test_a_reason_starts_one_run_with_the_reason_in_its_note(
    dag: Any, watched: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr("hpe_airflow.watching.tell_rows", lambda *table: told.append(table))
    assert states(dag, 1, watched) == {"run": "success", "evaluate_triggers": "success", "start_requantize": "success"}
    ((run_id, state, note, conf),) = started()
    assert run_id.startswith("watch__")
    assert state == "queued"
    assert note == f"first: channel staging of {watched['destination.name']} serves nothing yet"
    assert conf["model.checkpoint"] == watched["model.checkpoint"]
    ((title, rows),) = told
    assert title == "A run of hpe_requantize is started"
    assert (rows["run"], rows["why"]) == (run_id, note)
    # The same again does nothing.
    assert states(dag, 2, watched) == {"run": "success", "evaluate_triggers": "skipped", "start_requantize": "skipped"}
    assert len(started()) == 1


def test_a_move_by_command_is_told_once(
    dag_bag: Any, watched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look remembers what there is; without anybody to tell nothing is looked at."""
    from airflow.dag_processing.dagbag import DagBag

    config = config_of(watched)
    name, address = config.destination.name, config.destination.registry
    registry = ModelRegistry(make_client(), S3Location.parse(address))
    made = made_of_now(config, LocalWorkspace(tmp_path / "workspace"), tmp_path / "cache", make_client)
    old = serve(registry, version_made_of(config, made, tmp_path / "files"))
    files = records.write_files(tmp_path / "other files", "other")
    new = registry.store(records.manifest(files, config=config), files).version
    assert new != old

    def look(day: int) -> str:
        # Airflow writes a run's settings into the parameters of the DAG, where the next one in this process finds them.
        parsed = DagBag(dag_bag.dags["hpe_watch"].fileloc).dags["hpe_watch"].partial_subset("tell_moves")
        run = parsed.test(logical_date=datetime(2026, 5, day, tzinfo=UTC), run_conf=watched)
        [instance] = run.get_task_instances()
        return str(instance.state)

    def promote(version: str, *note: str) -> None:
        asked = ["channel", "promote", name, version, "--channel", "staging", "--registry", address, *note]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 0, done.output

    assert look(1) == "skipped"
    promote(new)
    promote(old)
    with http_receiver() as server:
        monkeypatch.setenv("AIRFLOW_CONN_HPE_ALERTS_WEBHOOK", json.dumps({"conn_type": "http", "host": server.address}))
        assert look(2) == "skipped"
        promote(new, "--note", "better knees.")
        assert look(3) == "success"
        assert look(4) == "skipped"
        [post] = server.posts
    said = f"{name}: channel staging now serves {new}, in place of {old}, promoted by "
    assert post.json["text"].startswith(said)
    assert post.json["text"].endswith(f": better knees. http://localhost:8080/hpe/models/{name}/{new}")
    # Nobody could be told: the next look tells it.
    promote(old)
    assert look(5) == "success"
    with http_receiver() as server:
        monkeypatch.setenv("AIRFLOW_CONN_HPE_ALERTS_WEBHOOK", json.dumps({"conn_type": "http", "host": server.address}))
        assert look(6) == "success"
        assert len(server.posts) == 1


def test_drift_starts_a_run_and_is_told_by_webhook_and_mail(
    dag: Any, watched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(watched)
    registry = ModelRegistry(make_client(), S3Location.parse(config.destination.registry))
    made = made_of_now(config, LocalWorkspace(tmp_path / "workspace"), tmp_path / "cache", make_client)
    name, version = config.destination.name, serve(registry, version_made_of(config, made, tmp_path / "files"))
    now, said = datetime.now(UTC), {"model": name, "model_version": version}
    good, dark = answered(tmp_path / "usual"), answered(tmp_path / "dark", 0.5)
    lines = [*spread(good, now - timedelta(days=20), 1, **said), *spread(dark, now - timedelta(days=2), 1, **said)]
    monkeypatch.setenv("HPE_WATCH_TELEMETRY", as_files(tmp_path / "log", lines))
    monkeypatch.setenv("HPE_WATCH_GOLDEN", f"{now - timedelta(days=21):%Y-%m-%d}/{now - timedelta(days=18):%Y-%m-%d}")
    with http_receiver() as hook, mail_receiver() as mail:
        channels = {
            "WEBHOOK": {"conn_type": "http", "host": hook.address},
            "EMAIL": {
                "conn_type": "smtp",
                "host": "127.0.0.1",
                "port": mail.port,
                "extra": {
                    "disable_ssl": True,
                    "disable_tls": True,
                    "from_email": "a@example.com",
                    "to": "b@example.com",
                },
            },
        }
        for channel, connection in channels.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_HPE_ALERTS_{channel}", json.dumps(connection))
        assert states(dag, 5, watched)["start_requantize"] == "success"
        wait_for(mail.mails)
        [post] = hook.posts
    begins = f"{name}: what the function sees has drifted: "
    assert post.json["text"].startswith(begins)
    assert "brightness of " in post.json["text"]
    [(to, message)] = mail.mails
    assert (to, message["Subject"][:40]) == (["b@example.com"], begins[:40])
    ((_, _, note, _),) = started()
    assert note.startswith("drift: ")


def test_a_changed_recipe_starts_a_run_that_says_so(dag: Any, watched: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(watched)
    registry = ModelRegistry(make_client(), S3Location.parse(config.destination.registry))
    made = made_of_now(config, LocalWorkspace(tmp_path / "workspace"), tmp_path / "cache", make_client)
    serve(registry, version_made_of(config, made, tmp_path / "files"))
    # What is served is what would be made.
    assert states(dag, 3, watched) == {"run": "success", "evaluate_triggers": "skipped", "start_requantize": "skipped"}
    assert started() == []
    changed = {**watched, "recipe.param_bw": 4}
    assert states(dag, 4, changed) == {"run": "success", "evaluate_triggers": "success", "start_requantize": "success"}
    ((_, _, note, conf),) = started()
    assert note == "recipe: recipe.param_bw 8 → 4"
    assert conf["recipe.param_bw"] == 4
