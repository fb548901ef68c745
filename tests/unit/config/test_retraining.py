"""What a retraining is asked: settings of a run that are made of those of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.keys import config_keys
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.config.stages import retraining_stages
from hpe_tasks.config.training import SCHEDULES, TrainingConfig
from hpe_tasks.errors import ConfigError
from hpe_tasks.report.commands import command_with

WEIGHTS = Path("weights.safetensors")
SAID = {"architecture", "skeleton", "codec", "input_width", "input_height", "width_multiplier"}
SAID |= {"initial_weights", "train_split", "val_split", "seed"}


def config(preset: str = "sample", **settings: Any) -> RunConfig:
    return load_config(preset, overrides={key.replace("__", "."): value for key, value in settings.items()})


def test_every_setting_of_a_training_is_one_of_a_run() -> None:
    keys = {key.removeprefix("training.") for key in config_keys() if key.startswith("training.")}
    assert keys == (set(TrainingConfig.model_fields) - SAID) | {"start", "schedule", "min_gain"}
    assert set(TrainingConfig.model_fields) >= SAID


def test_a_run_that_trains_nothing_is_stored_as_before_there_was_a_training() -> None:
    plain, asked = config(), config(training__epochs="3")
    assert "training" not in plain.model_dump(mode="json")
    assert asked.model_dump()["training"]["epochs"] == 3
    for one in (plain, asked):
        assert RunConfig.model_validate_json(one.model_dump_json()) == one
    assert "training" not in command_with(plain, ["gate.min_ap=0.1"], "hpe")
    assert "--set training.epochs=3" in command_with(asked, ["gate.min_ap=0.1"], "hpe")


def test_random_weights_are_trained_in_one_stage_of_the_runs_network() -> None:
    (stage,) = retraining_stages(
        config(training__epochs=2, training__bfloat16="true", dataset__training_split="train", seed=5), None
    )
    described = config().model
    assert stage.model_config_for("sample").model_dump(exclude={"trained_on"}) == described.model_dump(
        exclude={"trained_on"}
    )
    assert (stage.epochs, stage.bfloat16, stage.seed, stage.train_split, stage.val_split) == (
        2,
        True,
        5,
        "train",
        "val",
    )
    assert stage.initial_weights is None
    assert stage.batch_size == TrainingConfig().batch_size


def test_weights_are_fine_tuned_the_head_first_and_no_epoch_is_chosen_by_the_judging_images() -> None:
    head, whole = retraining_stages(config(training__batch_size=8), WEIGHTS)
    assert (head.freeze_backbone, whole.freeze_backbone) == (True, False)
    assert whole.learning_rate < TrainingConfig().learning_rate
    assert {stage.early_stop for stage in (head, whole)} == {None}
    assert {stage.initial_weights for stage in (head, whole)} == {str(WEIGHTS)}
    assert {(stage.batch_size, stage.input_width, stage.val_split) for stage in (head, whole)} == {(8, 128, "val")}
    (alone,) = retraining_stages(config(training__freeze_backbone=True), WEIGHTS)
    assert alone.freeze_backbone
    with pytest.raises(ConfigError, match="would choose the epoch by the evaluation split"):
        retraining_stages(config(training__early_stop=3), WEIGHTS)


def test_settings_count_for_every_stage_of_a_schedule() -> None:
    stages = retraining_stages(config(training__schedule="sample", training__epochs=1), WEIGHTS)
    assert [stage.epochs for stage in stages] == [1, 1]
    assert [stage.learning_rate for stage in stages] == [stage.learning_rate for stage in SCHEDULES["sample"]]
    assert [stage.initial_weights for stage in stages] == [str(WEIGHTS)] * 2
    assert retraining_stages(config(training__new_head=True), None)[0].new_head is False


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        pytest.param(
            config(training__schedule="aimet_pose_sample"), "model.architecture is 'pose_mobilenet'", id="other"
        ),
        pytest.param(config(model__mean=[0.5, 0.5, 0.5]), r"model.mean is \(0.5, 0.5, 0.5\)", id="another mean"),
        pytest.param(config(model__input_width=64, training__schedule="sample"), "model.input_width is 64", id="width"),
        pytest.param(
            config("rtmpose", model__checkpoint="a.onnx", dataset__source="d"), "a file of its own", id="file"
        ),
        pytest.param(
            config("pose_resnet_50_mpii", model__checkpoint="a.pth", dataset__source="d"), "kind 'coco'", id="MPII"
        ),
        pytest.param(
            config("pose_resnet_50_coco2017", model__checkpoint="a.pth", dataset__images_by_url=True),
            "only the images that are drawn for calibration",
            id="images by URL",
        ),
    ],
)
def test_what_cannot_be_trained_is_told_by_its_setting(asked: RunConfig, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        retraining_stages(asked, WEIGHTS)
    assert error.value.hint


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        pytest.param("training.epochs", 0, "greater than or equal to 1", id="bound"),
        pytest.param("training.epochs", "many", "takes a whole number", id="type"),
        pytest.param("training.schedule", "unheard_of", "training.schedule", id="schedule"),
        pytest.param("training.epoch", 1, "Did you mean training.epochs", id="name"),
        pytest.param("training.architecture", "pose_resnet_50", "There is no setting", id="what the run says"),
    ],
)
def test_a_wrong_setting_is_refused_as_any_other(key: str, value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config("sample", overrides={key: value})
