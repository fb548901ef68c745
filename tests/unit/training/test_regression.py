from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import CheckpointError, ConfigError, DatasetError, StorageError
from hpe_tasks.inference import fp32_predictor
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.networks.aimet_pose import AimetPose
from hpe_tasks.records.evaluation import CocoStats
from hpe_tasks.training.crops import TrainingCrops
from hpe_tasks.training.regression import train, train_stages
from support.named_outputs import joined
from support.training_factory import STILL, bottom_up, metadata, top_down


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, SampleSpec(train=8, calibration=1, val=3, width=200, height=150, seed=2))
    return folder


def test_training_lowers_the_loss_and_writes_weights_that_load(dataset: Path, tmp_path: Path) -> None:
    result = train(
        top_down(epochs=5, learning_rate=0.01, val_split="val", **STILL), dataset, tmp_path / "w.safetensors"
    )
    assert result.losses[-1] < 0.8 * result.losses[0]
    assert result.persons == len(load_coco(dataset, "train").all_persons())
    assert result.ap is not None
    assert 0 <= result.ap <= 1
    load_checkpoint(build_model(top_down().model_config_for("w")), result.checkpoint)
    about = metadata(result.checkpoint)
    assert about["architecture"] == "pose_mobilenet"
    assert about["input_size"] == [64, 64]
    assert about["epochs"] == 5
    assert about["ap"] == pytest.approx(result.ap, abs=1e-4)
    assert about["dataset"]["spec"]["seed"] == 2
    assert TrainingConfig.model_validate(about["training"]).epochs == 5


def test_images_that_the_validation_shows_too_are_not_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One is a copy, one was made smaller and larger again and saved anew."""
    root = tmp_path / "sample"
    make_sample(root, SampleSpec(train=4, calibration=1, val=3, width=200, height=150, seed=2))
    judged = sorted((root / "images" / "val").iterdir())
    copied, resaved, *_ = sorted((root / "images" / "train").iterdir())
    shutil.copy(judged[0], copied)
    with Image.open(judged[1]) as image:
        image.resize((100, 75)).resize((200, 150)).save(resaved, quality=60)
    with caplog.at_level(logging.WARNING):
        result = train(top_down(epochs=1, val_split="val"), root, tmp_path / "w.safetensors")
    left = load_coco(root, "train")
    assert result.persons == len(left.subset(left.image_ids[2:]).all_persons())
    assert "Not trained on 2 images of 'train' that 'val' shows, too" in caplog.text
    assert f"{copied.name} (like {judged[0].name}), {resaved.name} (like {judged[1].name})" in caplog.text


def test_a_training_split_that_the_validation_shows_whole_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "sample"
    make_sample(root, SampleSpec(train=2, calibration=1, val=2, width=200, height=150, seed=2))
    for image, other in zip(*(sorted((root / "images" / split).iterdir()) for split in ("train", "val")), strict=True):
        shutil.copy(other, image)
    with pytest.raises(DatasetError, match="Every image of 'train' looks like one of 'val'"):
        train(top_down(epochs=1, val_split="val"), root, tmp_path / "w.safetensors")


@pytest.mark.parametrize("config", [top_down, bottom_up])
def test_same_seed_gives_same_weights(dataset: Path, tmp_path: Path, config: Callable[..., TrainingConfig]) -> None:
    first = train(config(seed=4, epochs=1), dataset, tmp_path / "a.safetensors")
    second = train(config(seed=4, epochs=1), dataset, tmp_path / "b.safetensors")
    other = train(config(seed=5, epochs=1), dataset, tmp_path / "c.safetensors")
    assert first.losses == second.losses
    assert first.checkpoint.read_bytes() == second.checkpoint.read_bytes()
    assert first.losses != other.losses


def test_training_goes_on_from_given_weights(dataset: Path, tmp_path: Path) -> None:
    small = train(top_down(epochs=1, learning_rate=0.01), dataset, tmp_path / "small.safetensors")
    # Convolutions fit any size of the input, so that a network may learn on small crops first.
    fields = {"epochs": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "input_width": 96}
    grown = train(top_down(initial_weights=str(small.checkpoint), **fields), dataset, tmp_path / "grown.safetensors")
    first, second = load_file(small.checkpoint), load_file(grown.checkpoint)
    assert torch.allclose(first["heatmaps.weight"], second["heatmaps.weight"], atol=1e-6)
    with pytest.raises(CheckpointError, match="does not fit"):
        train(
            top_down(initial_weights=str(small.checkpoint), width_multiplier=0.25), dataset, tmp_path / "w.safetensors"
        )


@pytest.mark.parametrize(("config", "last"), [(top_down, "heatmaps.weight"), (bottom_up, "stage2_2.8.weight")])
def test_stages_follow_each_other_and_leave_one_file(
    dataset: Path, tmp_path: Path, config: Callable[..., TrainingConfig], last: str
) -> None:
    first = config(epochs=1, learning_rate=0.01)
    second = config(epochs=1, learning_rate=1e-9, weight_decay=0.0, input_width=96)
    alone = train(first, dataset, tmp_path / "alone" / "w.safetensors")
    started = time.monotonic()
    staged = train_stages([first, second], dataset, tmp_path / "staged" / "w.safetensors")
    # Of both stages: the last alone takes about half.
    assert staged.seconds > 0.9 * (time.monotonic() - started)
    assert [path.name for path in (tmp_path / "staged").iterdir()] == ["w.safetensors"]
    expected, weights = load_file(alone.checkpoint), load_file(staged.checkpoint)
    assert torch.allclose(expected[last], weights[last], atol=1e-6)
    about = metadata(staged.checkpoint)
    assert about["input_size"] == [96, second.input_height]
    assert about["training"]["initial_weights"] == "w.stage1.safetensors"


class Interrupted(Exception):
    """Stands for a kill."""


def test_an_interrupted_training_leaves_a_whole_interim_file_only(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TrainingCrops.plan

    def plan(crops: TrainingCrops, epoch: int) -> list[Any]:
        if epoch == 2:
            raise Interrupted
        return real(crops, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingCrops, "plan", plan)
        with pytest.raises(Interrupted):
            train(top_down(epochs=3, save_every=1), dataset, tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["w.interim.safetensors"]
    load_checkpoint(build_model(top_down().model_config_for("w")), tmp_path / "w.interim.safetensors")
    assert metadata(tmp_path / "w.interim.safetensors")["epochs"] == 2

    done = train(top_down(epochs=1), dataset, tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    assert len(done.losses) == 1


def test_a_folder_that_cannot_be_written_is_named(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        import errno

        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="full"):
        train(top_down(epochs=1), dataset, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "out", "error", "names"),
    [
        pytest.param({}, "w.pth", ConfigError, r"w\.pth", id="suffix"),
        pytest.param({"train_split": "test"}, "w.safetensors", DatasetError, "person_keypoints_test", id="split"),
        pytest.param(
            {"device": "cuda"},
            "w.safetensors",
            ConfigError,
            "cuda",
            id="no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_requests_are_refused(
    dataset: Path, tmp_path: Path, fields: dict[str, Any], out: str, error: type[Exception], names: str
) -> None:
    with pytest.raises(error, match=names):
        train(top_down(**fields), dataset, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_image_is_named(dataset: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    split = load_coco(copy, "train")
    victim = split.image_path(next(image for image in split.images if split.persons(image.id)))
    victim.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=victim.name):
        train(top_down(), copy, tmp_path / "w.safetensors")


@pytest.mark.parametrize("bfloat16", [False, True, None])
def test_training_lowers_the_loss_and_writes_the_network_itself(
    dataset: Path, tmp_path: Path, bfloat16: bool | None
) -> None:
    fields = bottom_up(epochs=6, learning_rate=2e-3, bfloat16=bfloat16, **STILL)
    result = train(fields, dataset, tmp_path / "w.safetensors")
    assert result.losses[-1] < 0.7 * result.losses[0]
    assert result.persons == len(load_coco(dataset, "train").all_persons())
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    assert load_file(result.checkpoint).keys() == AimetPose().state_dict().keys()
    load_checkpoint(build_model(fields.model_config_for("w")), result.checkpoint)
    about = metadata(result.checkpoint)
    assert about["architecture"] == "aimet_pose"
    # What the processor decided is on record.
    assert about["training"]["bfloat16"] in ((True, False) if bfloat16 is None else (bfloat16,))


def test_ap_is_measured_on_the_last_stage_and_with_folded_norms(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = []

    def measured(split: object, predict: Any, model: Any, *_: object, **__: object) -> Any:
        outputs.append(joined(predict(np.zeros((2, 3, 48, 64), np.float32))))
        return SimpleNamespace(accuracy=0.25, stats=CocoStats(**dict.fromkeys(CocoStats.model_fields, 0.25)))

    monkeypatch.setattr("hpe_tasks.training.measuring.evaluate", measured)
    fields = bottom_up(epochs=1, val_split="val")
    result = train(fields, dataset, tmp_path / "w.safetensors")
    assert result.ap == 0.25
    network = fp32_predictor(fields.model_config_for("w"), result.checkpoint, "cpu")
    expected = joined(network(np.zeros((2, 3, 48, 64), np.float32)))
    assert expected.shape == (2, 57, 6, 8)
    assert np.allclose(outputs[-1], expected, atol=1e-5, rtol=1e-4)


def test_maps_that_cannot_be_read_yet_do_not_end_a_training(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object, **__: object) -> Any:
        raise CheckpointError("The heatmaps have 9 peaks.")

    monkeypatch.setattr("hpe_tasks.training.measuring.evaluate", refused)
    fields = bottom_up(epochs=2, val_split="val", evaluate_every=1, save_every=1)
    with pytest.raises(CheckpointError, match="9 peaks"):
        train(fields, dataset, tmp_path / "w.safetensors")
    assert "epoch 1: AP cannot be measured yet: The heatmaps have 9 peaks." in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["w.interim.safetensors"]


def test_both_stages_and_both_kinds_of_maps_learn(dataset: Path, tmp_path: Path) -> None:
    start = bottom_up(epochs=1, learning_rate=1e-9, weight_decay=0.0)
    before = load_file(train(start, dataset, tmp_path / "a.safetensors").checkpoint)
    fields = {"epochs": 1, "learning_rate": 1e-2, "weight_decay": 0.0}
    going_on = bottom_up(initial_weights=str(tmp_path / "a.safetensors"), **fields)
    after = load_file(train(going_on, dataset, tmp_path / "b.safetensors").checkpoint)
    for head in ("stage1_1", "stage1_2", "stage2_1", "stage2_2"):
        assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith(head))
