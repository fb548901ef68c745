"""`airflow tasks test` for one task after the other, as docs/pipeline.md shows it.

The command ends with status 0 even when the task fails, so the artefacts tell.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.local.object_store import Server
from support.airflow_server import airflow, prepare_home, python
from support.tiny_inputs import tiny_settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # a new process for each task, and most of them import AIMET
]

ONE_AFTER_THE_OTHER = """
import json, sys
from airflow.cli.cli_parser import get_parser
for command in json.loads(sys.argv[1]):
    arguments = get_parser().parse_args(command)
    arguments.func(arguments)
"""
DATE = "2026-02-01"
RUN = "2026-02-01T000000-*"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    home = prepare_home()
    yield home
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_settings(tmp_path_factory.mktemp("tiny"))


def run_task(home: Path, server: Server, settings: dict[str, Any], task: str) -> str:
    options = ("--task-params", json.dumps(settings))
    return airflow(home, "tasks", "test", "hpe_requantize", task, DATE, *options, **server.environment)


def run_tasks(home: Path, server: Server, settings: dict[str, Any], *tasks: str) -> str:
    """The same command for one task after the other, in a process that loads Airflow and AIMET once."""
    commands = [
        ["tasks", "test", "hpe_requantize", task, DATE, "--task-params", json.dumps(settings)] for task in tasks
    ]
    return python(home, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands), **server.environment)


def results(home: Path) -> list[str]:
    """Steps that have a result, in the order in which they got it."""
    found = (home / ".hpe/workspace/runs").glob(f"{RUN}/*/result.json")
    return [path.parent.name for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def test_each_task_works_by_itself_and_finds_what_the_others_left(
    home: Path, s3_server: Server, settings: dict[str, Any]
) -> None:
    early = run_task(home, s3_server, settings, "evaluate_fp32")
    assert results(home) == []
    assert "Run fetch_dataset first" in early.partition("evaluate_fp32 failed: ")[2].partition("\n")[0], early[-3000:]

    said = run_task(home, s3_server, settings, "preflight")
    assert results(home) == ["preflight"], said[-3000:]
    before = ("fetch_dataset", "fetch_checkpoint", "validate_dataset", "evaluate_fp32", "check_fp32", "quantize")
    said = run_tasks(home, s3_server, settings, *before)
    assert results(home) == ["preflight", *before], said[-3000:]
    behind = ("export_onnx", "evaluate_quantized", "compare_accuracy", "gate", "publish")
    tested = ("smoke_test_lambda", "promote", "diagnose_layers", "report")
    said = run_tasks(home, s3_server, settings, *behind, *tested)
    assert results(home) == ["preflight", *before, *behind, *tested], said[-3000:]

    (folder,) = (home / ".hpe/workspace/runs").glob(RUN)
    published = json.loads((folder / "publish/result.json").read_text())["record"]
    channel = s3_server.client().get_object(Bucket="hpe-models", Key="registry/models/tiny/channels/staging.json")
    assert json.loads(channel["Body"].read())["version"] == published["version"]
    tested = json.loads((folder / "smoke_test_lambda/result.json").read_text())["record"]
    assert [image["image"] for image in tested["images"]] == ["golden-1", "golden-2", "golden-3"]
    assert "</html>" in (folder / "report/report.html").read_text()


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"recipe.fold_batch_norms": True, "gate.min_ap": 0.0}, id="JSON", marks=pytest.mark.long),
        pytest.param({"recipe.fold_batch_norms": "true", "gate.min_ap": "0.0"}, id="texts", marks=pytest.mark.long),
    ],
)
def test_values_may_be_json_or_its_text(
    home: Path, s3_server: Server, settings: dict[str, Any], given: dict[str, Any]
) -> None:
    # What they say is what holds anyway: it is the same run, whose step is done.
    said = run_task(home, s3_server, settings | given, "fetch_dataset")
    assert "fetch_dataset: reused " in said, said[-3000:]
    wrong = run_task(home, s3_server, settings | {"gate.min_ap": True}, "fetch_dataset")
    assert "gate.min_ap takes a number, not true" in wrong, wrong[-3000:]


@pytest.mark.long
def test_a_rung_of_the_ladder_works_by_itself(home: Path, s3_server: Server, settings: dict[str, Any]) -> None:
    searched = {**{key: value for key, value in settings.items() if key != "recipe.scheme"}, "recipe": "auto"}
    before = ("fetch_dataset", "fetch_checkpoint", "validate_dataset", "evaluate_fp32", "check_fp32")
    run_tasks(home, s3_server, searched, *before)
    early = run_task(home, s3_server, searched, "quantize")
    assert "quantize needs the result of choose_recipe" in early, early[-3000:]
    said = run_task(home, s3_server, searched, "try_min_max")
    assert "try_min_max: done" in said, said[-3000:]
    assert "try_tf_enhanced is left out: min_max has passed." in run_task(home, s3_server, searched, "try_tf_enhanced")
    run_task(home, s3_server, searched, "choose_recipe")
    said = run_task(home, s3_server, searched, "quantize")
    assert "quantize: reused " in said, said[-3000:]


def test_what_was_done_is_not_done_again(home: Path, s3_server: Server, settings: dict[str, Any]) -> None:
    said = run_task(home, s3_server, settings, "quantize")
    assert "quantize: reused " in said


@pytest.mark.long
def test_a_part_of_a_measurement_works_by_itself(home: Path, s3_server: Server, settings: dict[str, Any]) -> None:
    parts = {**settings, "evaluation.shards": 3, "evaluation.batch_size": 2}
    date, options = "2026-02-02", ["--task-params", json.dumps(parts)]
    commands = [
        ["tasks", "test", "hpe_requantize", task, date, *options]
        for task in ("fetch_dataset", "fetch_checkpoint", "validate_dataset")
    ]
    part = ["tasks", "test", "hpe_requantize", "evaluate_fp32_shards", date, "--map-index", "1", *options]
    said = python(home, "-c", ONE_AFTER_THE_OTHER, json.dumps([*commands, part]), **s3_server.environment)
    made = (home / ".hpe/workspace/store/evaluate_fp32_shards").glob("*/result.json")
    assert [json.loads(file.read_text())["number"] for file in made] == [1], said[-3000:]
