from __future__ import annotations

import copy
import logging
import re
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import nn

from hpe_tasks.errors import BadInputError
from hpe_tasks.records.training_curves import StageCurves, read_curves, stage_name
from hpe_tasks.training.activation_ranges import ActivationRanges, observed_layers
from hpe_tasks.training.curve_file import CurveFile
from hpe_tasks.training.observers import observers_for
from hpe_tasks.training.pace_log import PaceLog
from hpe_tasks.training.step_means import StepMeans
from hpe_tasks.training.tensorboard_files import TensorBoardFiles
from hpe_tasks.training.tracking import TrackedRuns
from support.observed_training import SETTINGS, observed_training, small_network

RANGED = ("1", "4", "6")
"""The layers of the small network whose ranges are told: both batch norms and the last convolution."""


def only(stages: tuple[StageCurves, ...]) -> StageCurves:
    [stage] = stages
    return stage


def test_curves_tell_of_steps_epochs_and_ranges(tmp_path: Path) -> None:
    observed_training(observers_for(tmp_path, {}))
    stage = only(read_curves(tmp_path / "curves.jsonl"))
    assert (stage.settings, stage.steps, stage.done) == (SETTINGS, 12, 12)
    assert [point.step for point in stage.points] == list(range(1, 13))
    # A gradient norm that is no number has no place in a curve.
    assert {name for point in stage.points for name in point.figures} == {"loss", "learning_rate", "examples_per_s"}
    assert stage.points[-1].figures["loss"] < stage.points[0].figures["loss"]
    assert [(point.step, point.figures["epoch"]) for point in stage.epochs] == [(4, 1), (8, 2), (12, 3)]
    for point in stage.epochs:
        for layer in RANGED:
            assert point.figures[f"activation_min/{layer}"] < point.figures[f"activation_max/{layer}"]
    assert stage.result == {"loss": stage.epochs[-1].figures["loss"], "ap": pytest.approx(0.3)}
    page = (tmp_path / "curves.html").read_text()
    assert "12 of 12 steps, done" in page
    assert "http" not in re.sub(r"http-equiv", "", page)
    for title in ("Loss", "AP on the validation split", "Learning rate", "Examples per second", "activations"):
        assert title in page
    assert not list(tmp_path.glob("mlflow*"))


def test_a_killed_training_goes_on_in_its_curves(tmp_path: Path) -> None:
    """It was killed in the middle of a line, two steps after what it is taken up from."""
    observed_training([CurveFile(tmp_path)], stop_after=10)
    file = tmp_path / "curves.jsonl"
    with file.open("a") as opened:
        opened.write('{"event": "ste')
    told = only(read_curves(file))
    assert (told.done, told.result) == (10, None)
    observed_training([CurveFile(tmp_path)], done=8)
    stage = only(read_curves(file))
    assert (stage.done, stage.taken_up) == (12, [8])
    assert [point.step for point in stage.points] == list(range(1, 13))
    assert [point.step for point in stage.epochs] == [4, 8, 12]
    page = (tmp_path / "curves.html").read_text()
    assert "12 of 12 steps, taken up again after step 8, done" in page
    assert 'class="curve-start" x1="66.67"' in page


def test_another_training_begins_its_curves_anew(tmp_path: Path) -> None:
    observed_training([CurveFile(tmp_path)], stop_after=3)
    again = [CurveFile(tmp_path, go_on=False)]
    for width in (32, 48):
        observed_training(again, settings={**SETTINGS, "input_width": width})
    assert [stage.settings["input_width"] for stage in read_curves(tmp_path / "curves.jsonl")] == [32, 48]


def test_another_stage_has_curves_of_its_own(tmp_path: Path) -> None:
    observers = observers_for(tmp_path, {})
    observed_training(observers)
    observed_training(observers, epochs=2, settings={**SETTINGS, "input_width": 128})
    first, second = read_curves(tmp_path / "curves.jsonl")
    assert (first.steps, second.steps, second.settings["input_width"]) == (12, 8, 128)
    folders = {stage_name(stage.settings) for stage in (first, second)}
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == folders
    assert "Stage 2 of 2: pose_mobilenet, input 128×96" in (tmp_path / "curves.html").read_text()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        pytest.param("[]", "Line 2 of", id="no event"),
        pytest.param('{"event": "epoch"}', "Line 2 of", id="no step"),
        pytest.param('{"event": "party"}', "Line 2 of", id="unknown event"),
        pytest.param("\udcff", "cannot be read", id="no text"),
    ],
)
def test_a_file_that_is_none_of_curves_is_named(tmp_path: Path, line: str, named: str) -> None:
    file = tmp_path / "curves.jsonl"
    CurveFile(tmp_path).begins(SETTINGS, small_network(), steps=1, done=0)
    with file.open("a", errors="surrogateescape") as opened:
        opened.write(line + "\n")
    with pytest.raises(BadInputError, match=named) as caught:
        read_curves(file)
    assert str(file) in str(caught.value)


def test_a_long_training_has_no_more_points_than_a_curve_shows() -> None:
    means = StepMeans(100_001, points=100)
    points = {step: told for step in range(1, 100_002) if (told := means.take(step, {"loss": step}))}
    assert len(points) == 100
    assert points[1001] == {"loss": 501.0}
    assert max(points) == 100_001


def test_tensorboard_reads_what_was_told(tmp_path: Path) -> None:
    """Of steps that were told twice it shows the second."""
    observed_training([ActivationRanges([TensorBoardFiles(tmp_path)])], stop_after=11)
    observed_training([ActivationRanges([TensorBoardFiles(tmp_path)])], done=8)
    [folder] = tmp_path.iterdir()
    shown = EventAccumulator(str(folder))
    shown.Reload()
    assert [event.step for event in shown.Scalars("train/loss")] == list(range(1, 13))
    assert [event.value for event in shown.Scalars("epoch/ap")] == pytest.approx([0.1, 0.2, 0.3])
    tags = set(shown.Tags()["scalars"])
    assert {f"activation_max/{layer}" for layer in RANGED} <= tags
    assert "train/gradient_norm" not in tags
    assert "learning_rate" in shown.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()


def test_the_log_says_how_fast_it_goes_and_how_long_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        observed_training([PaceLog(interval_s=0.0)], done=4)
    *between, last = [record.getMessage() for record in caplog.records]
    assert len(between) == 7
    number = r"[\d.,]+"
    assert re.fullmatch(
        rf"Training: 5 of 12 steps, {number} steps/s, \d+ s left; "
        rf"loss {number}, learning rate 0\.05, gradient norm nan, {number} examples/s",
        between[0],
    )
    assert re.match(rf"Training: 12 of 12 steps, {number} steps/s; loss", last)


def test_the_log_is_quiet_in_between(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        observed_training([PaceLog(interval_s=3600)])
    assert caplog.records == []


def test_ranges_are_those_of_the_training(tmp_path: Path) -> None:
    """Not of what is shown to the network, or to a copy of it, to measure it; and nothing stays on the network."""
    ranges = ActivationRanges([CurveFile(tmp_path)], every=1)

    def measure(network: nn.Module) -> None:
        network(torch.full((1, 3, 8, 8), 1e6))
        copied = copy.deepcopy(network)
        copied(torch.full((1, 3, 8, 8), 1e6))

    network = observed_training([ranges], between=measure)
    for point in only(read_curves(tmp_path / "curves.jsonl")).epochs:
        assert max(value for name, value in point.figures.items() if name.startswith("activation_max/")) < 100
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_whoever_watches_changes_no_bit_of_the_weights(tmp_path: Path) -> None:
    watched = observed_training(observers_for(tmp_path, {})).state_dict()
    for name, tensor in observed_training(()).state_dict().items():
        assert torch.equal(tensor, watched[name]), name


def test_ranges_are_the_least_and_the_largest_output(tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    network = small_network()
    network.get_submodule("6").register_forward_hook(lambda _m, _i, output: seen.append(output.detach()))
    observed_training([ActivationRanges([CurveFile(tmp_path)], every=3)], epochs=1, batches=7, network=network)
    looked_at = torch.stack([seen[index] for index in (0, 3, 6)])
    [point] = only(read_curves(tmp_path / "curves.jsonl")).epochs
    assert point.figures["activation_min/6"] == pytest.approx(float(looked_at.min()))
    assert point.figures["activation_max/6"] == pytest.approx(float(looked_at.max()))


@pytest.mark.parametrize(
    ("network", "layers", "chosen"),
    [
        pytest.param(small_network(), 8, ["1", "4", "6"], id="norms and the last"),
        pytest.param(small_network(), 2, ["1", "6"], id="first and last"),
        pytest.param(nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(9))), 3, ["0", "4", "8"], id="no norms"),
        pytest.param(nn.ModuleDict({"_forward_module": small_network()}), 8, ["1", "4", "6"], id="wrapped"),
        pytest.param(nn.Identity(), 8, [], id="nothing to look at"),
    ],
)
def test_layers_are_taken_evenly_over_the_network(network: nn.Module, layers: int, chosen: list[str]) -> None:
    assert list(observed_layers(network, layers)) == chosen


@pytest.mark.parametrize(
    ("environment", "tracked"),
    [
        pytest.param({}, False, id="nothing set"),
        pytest.param({"MLFLOW_TRACKING_URI": ""}, False, id="set to nothing"),
        pytest.param({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, True, id="a server"),
    ],
)
def test_a_tracking_server_is_told_where_one_is_named(
    tmp_path: Path, environment: dict[str, str], tracked: bool
) -> None:
    [ranges] = observers_for(tmp_path, environment)
    assert isinstance(ranges, ActivationRanges)
    assert any(isinstance(observer, TrackedRuns) for observer in ranges._told) is tracked
