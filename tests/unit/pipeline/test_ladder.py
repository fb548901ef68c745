"""The ladder, on the smallest inputs: real quantization, export and measurements of each rung."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.rungs import RUNGS, Rung
from hpe_tasks.errors import HpeError, MissingInputError, NotApprovedError, QuantizationError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.running import run_steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.pipeline.steps.ladder import TRY_RUNGS, rung_steps
from hpe_tasks.report.records import RunRecords
from hpe_tasks.storage.workspace import Scratch
from support.no_s3 import no_s3
from support.tiny_inputs import tiny_settings

pytestmark = pytest.mark.slow

NAMES = ["min_max", "tf_enhanced", "min_max_weights", "equalized"]
"""Those that take seconds: the others are left out here, as a user does."""
JUDGING = ("quantize", "export_onnx", "evaluate_quantized", "compare_accuracy", "gate")
TOO_LARGE = {"gate.max_size_mb": 0.001}
"""What no recipe of any rung can keep."""


class Told:
    """How each step ended."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}

    def began(self, step: Step[Any]) -> None:
        pass

    def ended(self, step: Step[Any], end: str, seconds: float) -> None:
        self.ends[step.name] = end


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, cache and workspace of all runs here: what one has made, the next one finds."""
    return tmp_path_factory.mktemp("ladder")


@pytest.fixture(scope="module")
def settings(folder: Path) -> dict[str, Any]:
    made = tiny_settings(folder)
    return {key: value for key, value in made.items() if key not in ("preset", "recipe.scheme")}


def opened(folder: Path, settings: dict[str, Any], workspace: str = "w", **changes: Any) -> Run:
    asked = {key.replace("__", "."): value for key, value in changes.items()}
    if str(asked.get("recipe", settings.get("recipe", ""))).startswith("auto"):
        asked.setdefault("recipe.search_rungs", NAMES)
    config = load_config("sample", overrides={**settings, "destination.smoke_test": False, **asked})
    return open_run(config, workspace=(folder / workspace).as_uri(), cache=folder / "c", name="r", s3=no_s3)


def climb(run: Run, until: Step[Any] = steps.gate) -> dict[str, str]:
    """Run all that a step needs; how each step ended."""
    told = Told()
    run_steps(REQUANTIZE, run, REQUANTIZE.needed_for(until), told)
    return told.ends


def collected(run: Run) -> RunRecords:
    """What a person is shown who opens the run afterwards."""
    return records_of(replace(run))


def states(records: RunRecords) -> dict[str, str]:
    """How it went with the rungs that were to be climbed."""
    others = [rung for rung in records.rungs if rung.name not in NAMES]
    assert {rung.reason for rung in others} <= {"recipe.search_rungs leaves it out."}
    return {rung.name: rung.state for rung in records.rungs if rung.name in NAMES}


def test_auto_stops_at_the_first_rung_that_passes_and_the_run_takes_what_it_made(
    folder: Path, settings: dict[str, Any]
) -> None:
    run = opened(folder, settings, recipe="auto")
    with pytest.raises(MissingInputError, match="quantize needs the result of fetch_dataset"):
        steps.quantize(run)
    ends = climb(run)
    assert [name for name in ends if name.startswith("try_")] == [f"try_{NAMES[0]}"]
    # The chosen recipe is not quantized again.
    assert {name: ends[name] for name in JUDGING} == dict.fromkeys(JUDGING, "reused")
    records = collected(run)
    assert states(records) == {NAMES[0]: "passed", **dict.fromkeys(NAMES[1:], "skipped")}
    assert {rung.reason for rung in records.rungs if rung.name in NAMES[1:]} == {f"{NAMES[0]} has passed."}
    assert records.choice is not None
    assert (records.choice.rung, records.choice.passed) == (NAMES[0], True)
    assert records.choice.reason == "the first of 1 rung tried that passes the gate."
    assert records.quantized is not None
    assert records.quantized.recipe == records.config.recipe == RUNGS[0].recipe(run.asked.recipe)
    assert records.requested.recipe.search == "first"
    (tried,) = (rung.tried for rung in records.rungs if rung.tried is not None)
    assert records.onnx is not None
    assert (tried.onnx, tried.reused) == (records.onnx.accuracy, ())
    assert tried.seconds > 0
    assert tried.peak_memory_bytes is None or tried.peak_memory_bytes > 100e6
    first, *later = TRY_RUNGS
    assert REQUANTIZE.left_out_behind(first, run) == tuple(later)
    assert REQUANTIZE.left_out_behind(steps.check_fp32, run) == ()
    # Rungs that are left out stand in the ladder's own table.
    assert [step.name for step in records.steps if step.name.startswith("try_")] == [f"try_{NAMES[0]}"]


def test_a_run_without_a_search_says_nothing_of_rungs_and_makes_the_same_files(
    folder: Path, settings: dict[str, Any]
) -> None:
    run = opened(folder, settings, recipe=NAMES[0])
    ends = climb(run)
    assert {name: ends.get(name) for name in JUDGING} == dict.fromkeys(JUDGING, "reused")
    records = collected(run)
    assert records.rungs == ()
    assert records.asked is None
    assert REQUANTIZE.left_out_behind(steps.check_fp32, run) == (*TRY_RUNGS, steps.choose_recipe)
    assert REQUANTIZE.left_out_behind(steps.evaluate_fp32, run) == ()
    assert [step.name for step in records.steps] == [
        step.name for step in REQUANTIZE.ordered if step not in (*TRY_RUNGS, steps.choose_recipe)
    ]


@pytest.mark.long
def test_auto_best_climbs_all_and_the_report_shows_them(folder: Path, settings: dict[str, Any]) -> None:
    run = opened(folder, settings, recipe="auto_best")
    ends = climb(run)
    assert {name: ends[name] for name in JUDGING} == dict.fromkeys(JUDGING, "reused")
    # The first rung has been tried by another run of the same inputs.
    assert ends[f"try_{NAMES[0]}"] == "reused"
    records = collected(run)
    assert states(records) == dict.fromkeys(NAMES, "passed")
    chosen = [rung.name for rung in records.rungs if rung.chosen]
    assert records.choice is not None
    assert chosen == [records.choice.rung]
    assert records.choice.reason == f"the best of {len(NAMES)} that pass the gate, of {len(NAMES)} rungs tried."
    html = steps.report(run).html
    page = run.workspace.local(html).read_text()
    assert "Recipes that were tried" in page
    assert page.count('class="rung-name') == len(NAMES) + 1


@pytest.mark.long
def test_where_none_passes_the_closest_is_judged_and_nothing_is_published(
    folder: Path, settings: dict[str, Any]
) -> None:
    run = opened(folder, settings | TOO_LARGE, recipe="auto")
    ends = climb(run)
    assert {name: ends[name] for name in JUDGING} == dict.fromkeys(JUDGING, "reused")
    records = collected(run)
    assert states(records) == dict.fromkeys(NAMES, "refused")
    assert all("MB is above" in rung.reason for rung in records.rungs if rung.name in NAMES)
    assert records.choice is not None
    assert not records.choice.passed
    losses = {rung.name: rung.tried.loss for rung in records.rungs if rung.tried and rung.tried.loss is not None}
    assert losses[records.choice.rung] == min(losses.values())
    assert f"none of {len(NAMES)} rungs tried passes the gate" in records.choice.reason
    assert "MB is above" in REQUANTIZE.skip_reason(steps.publish, run)
    with pytest.raises(NotApprovedError, match="MB is above"):
        steps.publish(run)


def test_a_rung_that_brings_nothing_new_is_left_out(folder: Path, settings: dict[str, Any]) -> None:
    equalized = {"recipe": "auto_best", "recipe.cross_layer_equalization": True}
    run = opened(folder, settings | TOO_LARGE | equalized)
    rung = next(step for step in TRY_RUNGS if step.name == "try_equalized")
    assert rung.skip(run) == "With these settings it is the same recipe as tf_enhanced."


def test_no_rung_is_begun_when_the_time_is_up(folder: Path, settings: dict[str, Any]) -> None:
    run = opened(folder, settings | TOO_LARGE, recipe="auto", recipe__search_minutes=0.0001)
    climb(run)
    records = collected(run)
    assert states(records) == {NAMES[0]: "refused", **dict.fromkeys(NAMES[1:], "skipped")}
    assert REQUANTIZE.left_out_behind(TRY_RUNGS[0], run) == TRY_RUNGS[1:]
    late = [rung.reason for rung in records.rungs if rung.name in NAMES[1:]]
    assert all("minutes; recipe.search_minutes is 0.0001." in reason for reason in late)
    assert records.choice is not None
    assert records.choice.rung == NAMES[0]


def test_steps_after_the_search_ask_for_it(folder: Path, settings: dict[str, Any]) -> None:
    run = opened(folder, settings, recipe="auto", seed=1)
    climb(run, steps.check_fp32)
    with pytest.raises(MissingInputError, match="quantize needs the result of choose_recipe"):
        steps.quantize(run)
    with pytest.raises(MissingInputError, match=f"choose_recipe needs the result of try_{NAMES[0]}"):
        steps.choose_recipe(run)


def test_a_recipe_that_the_network_does_not_take_is_a_result(folder: Path, settings: dict[str, Any]) -> None:
    wrong = folder / "aimet.json"
    wrong.write_text("{}")
    rungs = (Rung("wrong", "Take a configuration that is none.", lambda base: base.changed(aimet_config=str(wrong))),)
    run = opened(folder, settings, recipe="auto")
    climb(run, steps.check_fp32)
    record = rung_steps(rungs)[0](run)
    assert (record.state, record.loss) == ("impossible", None)
    assert "aimet.json has no `defaults` section" in record.reason


def test_where_no_rung_can_be_tried_the_run_fails_with_their_reasons(folder: Path, settings: dict[str, Any]) -> None:
    wrong = folder / "aimet.json"
    wrong.write_text("{}")
    run = opened(folder, settings, recipe="auto", recipe__aimet_config=str(wrong))
    with pytest.raises(QuantizationError, match=f"Not one rung .* {NAMES[0]}: .*no `defaults` section"):
        climb(run)
    records = collected(run)
    assert states(records) == dict.fromkeys(NAMES, "impossible")
    assert [failure.step for failure in records.failures] == ["choose_recipe"]
    assert "could not be tried" in run.workspace.local(steps.report(run).html).read_text()


CLIMB = """
import json, sys
from pathlib import Path
from hpe_tasks.config.loading import load_config
from hpe_tasks.pipeline.runs import open_run
from hpe_tasks.pipeline.steps.ladder import TRY_RUNGS

workspace, cache, settings, step = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4]
run = open_run(load_config("sample", overrides=settings), workspace=workspace, cache=cache, name="r", s3=lambda: None)
print("begun", flush=True)
next(one for one in TRY_RUNGS if one.name == step)(run)
"""


def climber(folder: Path, workspace: str, asked: dict[str, Any], step: str) -> subprocess.Popen[bytes]:
    """A process of its own that tries a rung, and has just begun it."""
    arguments = [(folder / workspace).as_uri(), str(folder / "c"), json.dumps(asked), step]
    process = subprocess.Popen(
        [sys.executable, "-c", CLIMB, *arguments],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process


@pytest.mark.long
def test_a_rung_that_is_killed_goes_on_where_it_was(folder: Path, settings: dict[str, Any]) -> None:
    run = opened(folder, settings, workspace="killed", recipe="auto")
    climb(run, steps.check_fp32)
    asked = {**settings, "destination.smoke_test": False, "recipe": "auto", "recipe.search_rungs": NAMES}
    part = folder / "killed" / run.prefix / "rungs" / NAMES[0]
    with climber(folder, "killed", asked, TRY_RUNGS[0].name) as process:
        wait_for(part / "export_onnx/result.json", process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (part / "gate/result.json").exists()
    record = TRY_RUNGS[0](replace(run))
    assert record.passed
    assert set(record.reused) >= {"quantize", "export_onnx"}
    assert "gate" not in record.reused
    assert leftovers(folder / "killed/store") == []


@pytest.fixture(scope="module")
def measured(folder: Path, settings: dict[str, Any]) -> Path:
    """A workspace in which FP32 has been measured: what all rungs begin with."""
    climb(opened(folder, settings, workspace="measured", recipe="auto"), steps.check_fp32)
    return folder / "measured"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_a_rung_that_is_killed_halfway_ends_as_if_it_had_not_been(
    folder: Path, settings: dict[str, Any], measured: Path, rung: Rung
) -> None:
    """Undisturbed in one workspace, killed in the middle of its work in another: the same file in the end."""
    brief = {"recipe.distillation_steps": 4, "recipe.distillation_batch": 2} if "distilled" in rung.name else {}
    labels = {"dataset.training_split": "calibration"} if rung.name == "distilled_labels" else {}
    asked = {**settings, **labels, "destination.smoke_test": False, "recipe": rung.name, **brief}
    asked |= {"recipe.search": "first", "recipe.search_rungs": [rung.name]}
    files, took_s = [], 0.0
    for workspace in (f"{rung.name}-whole", f"{rung.name}-killed"):
        shutil.copytree(measured, folder / workspace)
        run = opened(folder, asked, workspace=workspace)
        climb(run, steps.check_fp32)
        if took_s:
            with climber(folder, workspace, asked, rung.step) as process:
                time.sleep(took_s / 2)
                process.send_signal(signal.SIGKILL)
            assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
        began = time.monotonic()
        with climber(folder, workspace, asked, rung.step) as process:
            pass
        assert process.returncode == 0
        took_s = time.monotonic() - began
        assert leftovers(folder / workspace / "store") == []
        exported = folder / workspace / run.prefix / "rungs" / rung.name / "export_onnx/result.json"
        files.append(json.loads(exported.read_text())["record"]["model"]["sha256"])
    assert files[0] == files[1]


def wait_for(file: Path, process: subprocess.Popen[bytes]) -> None:
    while not file.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)


def leftovers(store: Path) -> Iterable[Path]:
    """Folders of results that hold no record."""
    return [folder for folder in store.glob("*/*") if not (folder / "result.json").exists()]


@pytest.mark.parametrize("name", [rung.name for rung in RUNGS])
def test_each_rung_can_be_asked_for_by_itself(name: str) -> None:
    labels = {"dataset.training_split": "train"} if name == "distilled_labels" else {}
    config = load_config("sample", overrides={"recipe": name, **labels})
    rung = next(rung for rung in RUNGS if rung.name == name)
    assert config.recipe == rung.recipe(config.recipe)
    assert config.recipe.search == "off"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({}, "dataset.training_split is empty: there are no labels to learn from.", id="no-split"),
        pytest.param(
            {"dataset.training_split": "train", "model.architecture": "onnx", "model.checkpoint": "a.onnx"},
            "How the network in an ONNX file was taught is not known: labels would teach it something else.",
            id="a-file",
        ),
        pytest.param({"dataset.training_split": "train"}, "", id="labels"),
    ],
)
def test_labels_are_learnt_from_only_where_there_are_some(folder: Path, changes: dict[str, Any], says: str) -> None:
    names = ["distilled_labels"]
    config = load_config("sample", overrides={"recipe": "auto", "recipe.search_rungs": names, **changes})
    run = open_run(config, workspace=(folder / "labels").as_uri(), cache=folder / "c", name=says[:1] or "-", s3=no_s3)
    rung = TRY_RUNGS[-1]
    assert (rung.name, rung.skip(run)) == ("try_distilled_labels", says)
    if says:
        with pytest.raises(QuantizationError, match=f"Not one rung .* distilled_labels: {says}"):
            steps.choose_recipe.body(run, Scratch(folder, folder.as_uri()))


@pytest.mark.long
def test_a_rung_learns_from_labels(folder: Path, settings: dict[str, Any]) -> None:
    labels = {"dataset.training_split": "calibration", "recipe.distillation_batch": 2}
    brief = Rung("brief", "Two steps only.", lambda base: RUNGS[-1].recipe(base).changed(distillation_steps=2))
    run = opened(folder, settings | labels, workspace="labels", recipe="auto")
    climb(run, steps.check_fp32)
    record = rung_steps((brief,))[0](run)
    assert record.state in ("passed", "refused", "inconclusive"), record.reason
    assert record.recipe.name.endswith("qat_labels")


def test_a_rung_keeps_what_the_user_has_set(folder: Path, settings: dict[str, Any]) -> None:
    asked = {"recipe": "auto", "recipe.granularity": "per_tensor", "recipe.param_bw": 4}
    run = opened(folder, settings | asked)
    for rung in RUNGS:
        recipe = rung.recipe(run.asked.recipe)
        kept = (recipe.granularity, recipe.param_bw, recipe.calibration_images, recipe.search)
        assert kept == ("per_tensor", 4, 3, "off"), rung.name


def test_a_rung_that_there_is_not_is_refused() -> None:
    with pytest.raises(HpeError, match=r"there is no rung 'equalised'\. Choose of: min_max, "):
        load_config("sample", overrides={"recipe": "auto", "recipe.search_rungs": ["equalised"]})


def test_yaml_reads_off_as_false_and_it_is_taken_for_what_was_written() -> None:
    assert load_config("sample", overrides={"recipe.search": False}).recipe.search == "off"
    with pytest.raises(HpeError, match=r"recipe\.search takes one of off, first, best, not true"):
        load_config("sample", overrides={"recipe.search": True})
