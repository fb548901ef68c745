from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.loading import load_training
from hpe_tasks.config.training import SCHEDULES
from hpe_tasks.errors import ConfigError
from support.training_factory import top_down


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        pytest.param({"input_width": 100}, "multiples of 32", id="size"),
        pytest.param({"val_split": "train"}, "both 'train'", id="same split"),
        pytest.param({"epoch": 3}, "epoch", id="unknown key"),
        pytest.param({"architecture": "onnx"}, "architecture", id="onnx"),
        pytest.param({"learning_rate": 0}, "learning_rate", id="learning rate"),
        pytest.param({"freeze_backbone": True}, "initial_weights", id="frozen"),
        pytest.param({"early_stop": 3, "val_split": None}, "val_split", id="early stop"),
        pytest.param({"epochs": 5, "drop_epochs": (3, 2)}, "drop_epochs", id="drops that do not rise"),
        pytest.param({"epochs": 5, "drop_epochs": (2, 5)}, "from 1 to 4", id="drop after the end"),
        pytest.param({"float16": True, "bfloat16": True}, "exclude each other", id="precision"),
    ],
)
def test_bad_configurations_are_refused(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        top_down(**fields)


def test_the_schedules_measure_what_they_train() -> None:
    for name, stages in SCHEDULES.items():
        assert len({stage.architecture for stage in stages}) == 1, name
        assert all(stage.initial_weights in (None, SAMPLE) for stage in stages), name
        years = {
            (stage.train_split.removeprefix("train"), (stage.val_split or "").removeprefix("val")) for stage in stages
        }
        assert years in ({("", "")}, {("2017", "2017")}, {("2014", "2014")}), name


@pytest.mark.parametrize(
    ("name", "epochs", "drops", "rate", "batch", "sigma", "size", "changes"),
    [
        ("pose_resnet_50", 140, (90, 120), 1e-3, 128, 2.0, (192, 256), (0.5, 40, 0.3)),
        ("pose_resnet_152", 140, (90, 120), 1e-3, 128, 2.0, (192, 256), (0.5, 40, 0.3)),
        ("pose_hrnet_w32", 210, (170, 200), 1e-3, 128, 2.0, (192, 256), (0.5, 45, 0.35)),
        ("pose_hrnet_w48", 210, (170, 200), 1e-3, 128, 2.0, (192, 256), (0.5, 45, 0.35)),
        ("pose_hrnet_w48_384x288", 210, (170, 200), 1e-3, 96, 3.0, (288, 384), (0.5, 45, 0.35)),
        ("simcc", 140, (90, 120), 1e-3, 128, None, (192, 256), (0.5, 40, 0.3)),
        ("aimet_pose", 280, (100, 200, 260), 4e-5, 80, None, (496, 384), (0.5, 40, 0.3)),
    ],
)
def test_papers_trained_like_this(
    name: str,
    epochs: int,
    drops: tuple[int, ...],
    rate: float,
    batch: int,
    sigma: float | None,
    size: tuple[int, int],
    changes: tuple[float, ...],
) -> None:
    [stage] = SCHEDULES[name]
    assert (stage.epochs, stage.drop_epochs, stage.learning_rate, stage.batch_size) == (epochs, drops, rate, batch)
    assert (stage.sigma, (stage.input_width, stage.input_height)) == (sigma, size)
    assert (stage.flip_probability, stage.rotation_degrees, stage.scale_range) == changes
    assert (stage.optimizer, stage.warm_up_epochs, stage.colour_jitter) == ("adam", 0, 0)


def test_settings_change_a_schedule() -> None:
    own = {"train_split": "mine", "initial_weights": "resnet50.pth", "new_head": True}
    [stage] = load_training(own, "pose_resnet_50")
    assert (stage.train_split, stage.initial_weights, stage.new_head) == ("mine", "resnet50.pth", True)
    assert (stage.epochs, stage.val_split) == (140, "val2017")
    # What a training starts from concerns its first stage: the second goes on from that.
    first, second = load_training({**own, "seed": 3}, "sample")
    assert (first.initial_weights, first.seed, second.initial_weights, second.seed) == ("resnet50.pth", 3, None, 3)
    assert second.input_width == SCHEDULES["sample"][1].input_width
    with pytest.raises(ConfigError, match="drop_epochs must rise"):
        load_training({"epochs": 100}, "pose_resnet_50")
    assert load_training({}, "sample") == load_training({}) == SCHEDULES["sample"]


@pytest.mark.parametrize("module", ["hpe_tasks.config.training", "hpe_tasks.config.loading"])
def test_settings_are_read_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(', '.join({{'torch', 'numpy', 'cv2'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
