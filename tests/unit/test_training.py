from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file

from hpe_tasks.codecs.heatmap import find_peaks
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import CheckpointError, ConfigError, DatasetError, StorageError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.skeletons import COCO17
from hpe_tasks.training import METADATA_KEY, train, train_stages
from hpe_tasks.training_config import TrainingConfig
from hpe_tasks.training_data import TrainingCrops

STILL: dict[str, Any] = {
    "flip_probability": 0.0,
    "rotation_degrees": 0.0,
    "scale_range": 0.0,
    "shift_range": 0.0,
    "colour_jitter": 0.0,
}


def config(**fields: Any) -> TrainingConfig:
    tiny = {
        "input_width": 64,
        "input_height": 64,
        "width_multiplier": 0.125,
        "epochs": 2,
        "batch_size": 8,
        "warm_up_epochs": 0.0,
        "val_split": None,
        "device": "cpu",
    }
    return TrainingConfig.model_validate(tiny | fields)


def metadata(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        content: dict[str, Any] = json.loads(file.metadata()[METADATA_KEY])
    return content


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, SampleSpec(train=8, calibration=1, val=3, width=200, height=150, seed=2))
    return folder


def test_training_lowers_the_loss_and_writes_weights_that_load(dataset: Path, tmp_path: Path) -> None:
    result = train(config(epochs=5, learning_rate=0.01, val_split="val", **STILL), dataset, tmp_path / "w.safetensors")
    assert result.losses[-1] < 0.8 * result.losses[0]
    assert result.persons == len(load_coco(dataset, "train").all_persons())
    assert result.ap is not None
    assert 0 <= result.ap <= 1
    load_checkpoint(build_model(config().model_config_for("w")), result.checkpoint)
    about = metadata(result.checkpoint)
    assert about["architecture"] == "pose_mobilenet"
    assert about["input_size"] == [64, 64]
    assert about["epochs"] == 5
    assert about["ap"] == pytest.approx(result.ap, abs=1e-4)
    assert about["dataset"]["spec"]["seed"] == 2
    assert TrainingConfig.model_validate(about["training"]).epochs == 5


def test_same_seed_gives_same_weights(dataset: Path, tmp_path: Path) -> None:
    first = train(config(seed=4, epochs=1), dataset, tmp_path / "a.safetensors")
    second = train(config(seed=4, epochs=1), dataset, tmp_path / "b.safetensors")
    other = train(config(seed=5, epochs=1), dataset, tmp_path / "c.safetensors")
    assert first.losses == second.losses
    assert first.checkpoint.read_bytes() == second.checkpoint.read_bytes()
    assert first.losses != other.losses


def test_training_goes_on_from_given_weights(dataset: Path, tmp_path: Path) -> None:
    small = train(config(epochs=1, learning_rate=0.01), dataset, tmp_path / "small.safetensors")
    # Convolutions fit any size of the input, so that a network may learn on small crops first.
    fields = {"epochs": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "input_width": 96}
    grown = train(config(initial_weights=str(small.checkpoint), **fields), dataset, tmp_path / "grown.safetensors")
    first, second = load_file(small.checkpoint), load_file(grown.checkpoint)
    assert torch.allclose(first["heatmaps.weight"], second["heatmaps.weight"], atol=1e-6)
    with pytest.raises(CheckpointError, match="does not fit"):
        train(config(initial_weights=str(small.checkpoint), width_multiplier=0.25), dataset, tmp_path / "w.safetensors")


def test_stages_follow_each_other_and_leave_one_file(dataset: Path, tmp_path: Path) -> None:
    first = config(epochs=1, learning_rate=0.01)
    second = config(epochs=1, learning_rate=1e-9, weight_decay=0.0, input_width=96)
    alone = train(first, dataset, tmp_path / "alone" / "w.safetensors")
    staged = train_stages([first, second], dataset, tmp_path / "staged" / "w.safetensors")
    assert [path.name for path in (tmp_path / "staged").iterdir()] == ["w.safetensors"]
    expected, weights = load_file(alone.checkpoint)["heatmaps.weight"], load_file(staged.checkpoint)["heatmaps.weight"]
    assert torch.allclose(expected, weights, atol=1e-6)
    about = metadata(staged.checkpoint)
    assert about["input_size"] == [96, 64]
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
            train(config(epochs=3, save_every=1), dataset, tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["w.interim.safetensors"]
    load_checkpoint(build_model(config().model_config_for("w")), tmp_path / "w.interim.safetensors")
    assert metadata(tmp_path / "w.interim.safetensors")["epochs"] == 2

    done = train(config(epochs=1), dataset, tmp_path / "w.safetensors")
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
        train(config(epochs=1), dataset, tmp_path / "w.safetensors")
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
        train(config(**fields), dataset, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        pytest.param({"input_width": 100}, "multiples of 32", id="size"),
        pytest.param({"val_split": "train"}, "both 'train'", id="same split"),
        pytest.param({"epoch": 3}, "epoch", id="unknown key"),
        pytest.param({"architecture": "onnx"}, "architecture", id="onnx"),
        pytest.param({"learning_rate": 0}, "learning_rate", id="learning rate"),
    ],
)
def test_bad_configurations_are_refused(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(ValidationError, match=names):
        config(**fields)


def test_targets_lie_on_the_joints(dataset: Path) -> None:
    split = load_coco(dataset, "train")
    crops = TrainingCrops(split, config(sigma=1.0, **STILL))
    batch = crops.batch(0, np.arange(len(crops)))
    assert batch.images.shape == (len(crops), 3, 64, 64)
    assert batch.images.dtype == batch.targets.dtype == np.float32
    labelled = np.array([person.keypoints[:, 2] > 0 for person in split.all_persons()])
    # Every labelled joint lies in the person's own crop, because the box is padded.
    assert (batch.weights > 0).sum() >= 0.95 * labelled.sum()
    assert not (batch.weights[~labelled]).any()
    assert batch.targets[batch.weights == 0].max() == 0


def test_mirroring_swaps_left_and_right(dataset: Path) -> None:
    split = load_coco(dataset, "train")
    plain = TrainingCrops(split, config(**STILL)).batch(0, np.arange(4))
    mirrored = TrainingCrops(split, config(**{**STILL, "flip_probability": 1.0})).batch(0, np.arange(4))
    # A column of difference: warping rounds to fractions of a pixel.
    assert np.abs(mirrored.images[..., ::-1] - plain.images).mean() < 0.05
    swap = np.arange(17)
    for left, right in COCO17.flip_pairs:
        swap[[left, right]] = right, left
    assert np.array_equal(mirrored.weights, plain.weights[:, swap])
    points, _ = find_peaks(plain.targets)
    turned, _ = find_peaks(mirrored.targets)
    both = mirrored.weights > 0
    # Pixel x of the input becomes W-1-x: in heatmap pixels 15.75 - x.
    error = turned[..., 0][both] - (15.75 - points[:, swap, 0][both])
    assert np.abs(error).max() <= 1.0
    assert np.abs(error).mean() < 0.4


def test_crops_do_not_depend_on_the_batch_or_the_cache(dataset: Path) -> None:
    split = load_coco(dataset, "train")
    crops, uncached = TrainingCrops(split, config()), TrainingCrops(split, config(cache_mb=0))
    together = crops.batch(1, np.array([0, 1, 2]))
    alone = uncached.batch(1, np.array([2]))
    assert np.array_equal(together.images[2], alone.images[0])
    assert np.array_equal(together.targets[2], alone.targets[0])
    assert not np.array_equal(crops.batch(2, np.array([2])).images[0], alone.images[0])


def test_joints_that_the_data_set_lacks_have_no_weight(dataset: Path) -> None:
    fields = config(skeleton="mpii16", **STILL)
    batch = TrainingCrops(load_coco(dataset, "train"), fields).batch(0, np.arange(8))
    joints = fields.model_config_for("w").joints.joints
    lacking = [i for i, joint in enumerate(joints) if joint not in COCO17.joints]
    assert not batch.weights[:, lacking].any()
    assert batch.weights[:, joints.index("left_knee")].any()


def test_a_broken_image_is_named(dataset: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    split = load_coco(copy, "train")
    victim = split.image_path(next(image for image in split.images if split.persons(image.id)))
    victim.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=victim.name):
        train(config(), copy, tmp_path / "w.safetensors")
