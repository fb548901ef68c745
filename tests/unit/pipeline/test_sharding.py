"""A step whose work several workers do in parts: what is stored counts, what is lost is made again alone."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hpe_tasks.config.environment import shard_tasks
from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import ConfigError, DatasetError, MissingInputError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.pipeline.steps import sharding
from hpe_tasks.pipeline.steps.sharding import num_shards
from hpe_tasks.records.evaluation import EvaluationReport
from hpe_tasks.records.shards import PredictedShard
from support.figures import figures_of
from support.no_s3 import no_s3
from support.tiny_inputs import tiny_settings

PARTS = 3


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four drawn pictures and a small network that has learned nothing; batches of two persons."""
    return {**tiny_settings(tmp_path_factory.mktemp("tiny")), "evaluation.batch_size": 2}


def worker(tmp_path: Path, settings: dict[str, Any], name: str = "one", **changes: Any) -> Run:
    """The run as a machine with a cache of its own opens it."""
    overrides = settings | {key.replace("__", "."): value for key, value in changes.items()}
    config = load_config(overrides.pop("preset"), overrides=overrides)
    workspace = (tmp_path / "workspace").as_uri()
    return open_run(config, workspace=workspace, cache=tmp_path / name, name="r", s3=no_s3)


def fetched(run: Run) -> Run:
    steps.fetch_dataset(run)
    return run


def prepared(run: Run) -> Run:
    for step in (steps.fetch_dataset, steps.fetch_checkpoint, steps.validate_dataset):
        step(run)
    return run


def figures(report: EvaluationReport) -> dict[str, Any]:
    return figures_of(report.model_dump(mode="json"))


def stored(tmp_path: Path) -> dict[int, Path]:
    """The folders of the parts, by their numbers."""
    files = (tmp_path / "workspace/store/evaluate_fp32_shards").glob("*/result.json")
    return {PredictedShard.model_validate_json(file.read_bytes()).number: file.parent for file in files}


def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the parts that a network looks at from now on."""
    import hpe_tasks.evaluation

    numbers: list[int] = []
    original = hpe_tasks.evaluation.predict_shard

    def noticed(*arguments: Any, **options: Any) -> PredictedShard:
        numbers.append(options["shard"].number)
        return original(*arguments, **options)

    monkeypatch.setattr(hpe_tasks.evaluation, "predict_shard", noticed)
    return numbers


def test_parts_of_several_workers_come_to_what_one_measures(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = steps.evaluate_fp32(prepared(worker(tmp_path / "alone", settings)))
    numbers = made(monkeypatch)
    for number in range(PARTS):
        run = worker(tmp_path, settings, f"machine {number}", evaluation__shards=PARTS)
        prepared(run)
        steps.evaluate_fp32.make_shard(run, number)
    # Twice is as good as once.
    steps.evaluate_fp32.make_shard(worker(tmp_path, settings, "late", evaluation__shards=PARTS), 1)
    assert numbers == [0, 1, 2]

    monkeypatch.setattr("hpe_tasks.inference.fp32_predictor", None)
    together = steps.evaluate_fp32(worker(tmp_path, settings, "last", evaluation__shards=PARTS))
    assert figures(together) == figures(alone)
    assert numbers == [0, 1, 2]


@pytest.mark.long
def test_parts_of_the_simulation_and_of_the_file_come_to_what_one_measures(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(run: Run) -> Run:
        for step in (steps.evaluate_fp32, steps.check_fp32, steps.quantize, steps.export_onnx):
            step(run)
        return run

    one = exported(prepared(worker(tmp_path, settings)))
    alone = steps.evaluate_quantized(one)
    kept = [figures(alone.quantsim), figures(alone.onnx)]
    one.workspace.forget("evaluate_quantized", one.key(steps.evaluate_quantized))
    several = exported(prepared(worker(tmp_path, settings, evaluation__shards=PARTS)))
    assert several.key(steps.evaluate_quantized) == one.key(steps.evaluate_quantized)
    for number in range(PARTS):
        steps.evaluate_quantized.make_shard(several, number)
    numbers = made(monkeypatch)
    together = steps.evaluate_quantized(several)
    assert numbers == []
    assert [figures(together.quantsim), figures(together.onnx)] == kept


def test_a_part_that_is_lost_is_made_again_alone(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(worker(tmp_path, settings, evaluation__shards=PARTS))
    for number in range(PARTS):
        steps.evaluate_fp32.make_shard(run, number)
    numbers = made(monkeypatch)
    shutil.rmtree(stored(tmp_path)[1])
    (stored(tmp_path)[2] / "poses.parquet").write_bytes(b"cut off")
    steps.evaluate_fp32(run)
    assert numbers == [1, 2]


def test_the_number_of_parts_decides_nothing(tmp_path: Path, settings: dict[str, Any]) -> None:
    """A whole that was measured stands in for parts, and the folder of a run of one part is that of before."""
    one = prepared(worker(tmp_path, settings))
    steps.evaluate_fp32(one)
    several = prepared(worker(tmp_path, settings, evaluation__shards=PARTS))
    assert several.name != one.name
    steps.evaluate_fp32(several)
    pointer = several.pointer("evaluate_fp32")
    assert pointer is not None
    assert pointer.reused
    assert stored(tmp_path) == {}


def test_a_run_may_leave_the_number_of_parts_to_its_data_and_workers(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, "_PERSONS", 2)
    run = worker(tmp_path, settings, evaluation__shards=0)
    with pytest.raises(MissingInputError, match="validate_dataset"):
        num_shards(run)
    (split,) = [one for one in steps.validate_dataset(fetched(run)).splits if one.split == "val"]
    assert num_shards(run) == math.ceil(split.persons / 2) > 2
    monkeypatch.setenv("HPE_SHARD_TASKS", "2")
    assert num_shards(run) == 2
    steps.fetch_checkpoint(run)
    steps.evaluate_fp32(run)
    assert sorted(stored(tmp_path)) == [0, 1]
    monkeypatch.setattr(sharding, "_PERSONS", 1000)
    assert num_shards(run) == 1


@pytest.mark.parametrize("said", ["none", "0", "-1", "1001", "²"])
def test_a_number_of_tasks_that_is_none_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPE_SHARD_TASKS", said)
    with pytest.raises(ConfigError, match="HPE_SHARD_TASKS is"):
        shard_tasks()


def test_what_stops_a_part_is_told_as_the_steps_reason(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = worker(tmp_path, settings, evaluation__shards=PARTS)
    with pytest.raises(MissingInputError, match="fetch_dataset"):
        steps.evaluate_fp32.make_shard(run, 0)
    prepared(run)
    pictures = sorted((Path(settings["dataset.source"]) / "images" / "val").iterdir())
    content = pictures[0].read_bytes()
    pictures[0].unlink()
    try:
        with pytest.raises(DatasetError, match=rf"1 cannot be measured, where 0 may fail: .*{pictures[0].name}"):
            steps.evaluate_fp32.make_shard(run, 0)
    finally:
        pictures[0].write_bytes(content)
    failure = run.failure("evaluate_fp32")
    assert failure is not None
    assert pictures[0].name in failure.message
    steps.evaluate_fp32(run)
    assert run.failure("evaluate_fp32") is None


@pytest.mark.parametrize(
    ("step", "shards", "number", "says"),
    [
        pytest.param(steps.evaluate_fp32, 3, 3, "evaluate_fp32 has no part 3 in this run: it has 3", id="beyond"),
        pytest.param(steps.gate, 3, 0, "gate has no part 0 in this run: it has 1", id="whole"),
    ],
)
def test_a_part_that_there_is_not(
    tmp_path: Path, settings: dict[str, Any], step: Any, shards: int, number: int, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        step.make_shard(worker(tmp_path, settings, evaluation__shards=shards), number)


def test_a_part_by_command(tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from hpe_tasks.cli.app import app

    prepared(worker(tmp_path, settings, evaluation__shards=PARTS))
    monkeypatch.setenv("HPE_WORKSPACE", (tmp_path / "workspace").as_uri())
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "another"))
    given = {**settings, "evaluation.shards": PARTS}
    command = ["evaluate-fp32", "--shard", "2", "--run", "r", "--preset", given.pop("preset")]
    for key, value in given.items():
        command += ["--set", f"{key}={value}"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert list(stored(tmp_path)) == [2]
