"""A second pipeline takes three files: its module, a line where pipelines are listed, and its DAG."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.further import FURTHER, copy_of

LOOK = """
import json, sys
sys.path.insert(0, "plugins")
from typer.main import get_command
from hpe_tasks.cli.app import app
from hpe_airflow.trigger_check import _triggered
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("dags")
print(json.dumps({
    "commands": sorted(get_command(app).commands),
    "checked": [
        _triggered(f"/api/v2/dags/{name}/dagRuns") is not None for name in ("hpe_requantize", "hpe_inputs", "another")
    ],
    "errors": list(bag.import_errors.values()),
    "tasks": {task.task_id: sorted(task.upstream_task_ids) for task in bag.dags["hpe_inputs"].tasks},
}))
"""


@pytest.fixture(scope="module")
def tree(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a second pipeline, in three files."""
    tree = copy_of(repository, tmp_path_factory.mktemp("tree"), "hpe_tasks", "plugins", "dags")
    FURTHER["pipeline"].add_to(tree)
    return tree


def python(tree: Path, *arguments: str, status: int = 0) -> str:
    places = {"HPE_WORKSPACE": (tree / "workspace").as_uri(), "HPE_CACHE": str(tree / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=os.environ | places | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.usefixtures("dag_bag")
def test_commands_trigger_check_and_dag_are_made_of_it(tree: Path) -> None:
    found: dict[str, Any] = json.loads(python(tree, "-c", LOOK).splitlines()[-1])
    assert {"run", "inputs", "list-inputs", "fetch-dataset"} <= set(found["commands"])
    assert found["checked"] == [True, True, False]
    assert found["errors"] == []
    assert found["tasks"] == {
        "fetch_checkpoint": [],
        "fetch_dataset": [],
        "list_inputs": ["fetch_checkpoint", "fetch_dataset"],
    }


def test_its_command_runs_its_steps_and_its_step_is_a_command(tree: Path, tmp_path: Path) -> None:
    from support.tiny_inputs import tiny_settings

    settings = tiny_settings(tmp_path)
    preset = settings.pop("preset")
    asked = ["--preset", preset, *(f"--set={key}={json.dumps(value)}" for key, value in settings.items())]
    assert "List what a run would start from." in python(tree, "-m", "hpe_tasks", "list-inputs", "--help")
    told = json.loads(python(tree, "-m", "hpe_tasks", "inputs", "--json", *asked))
    assert [(step["name"], step["state"]) for step in told["steps"]] == [
        ("fetch_checkpoint", "done"),
        ("fetch_dataset", "done"),
        ("list_inputs", "done"),
    ]
    assert told["dataset"]["num_files"] > 2
    detail = "Every step is done. This pipeline judges no model."
    assert told["verdict"] == {"kind": "done", "title": "Done", "detail": detail}
    assert told["report"] is None
    again = python(tree, "-m", "hpe_tasks", "inputs", *asked)
    assert again.startswith("Done  (run ")
    assert detail in again
