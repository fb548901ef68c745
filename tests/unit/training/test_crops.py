from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.pose.codecs.heatmaps import find_peaks
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.training.crops import TrainingCrops
from support.training_factory import MIRRORED, STILL, top_down


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, SampleSpec(train=8, calibration=1, val=3, width=200, height=150, seed=2))
    return folder


def test_targets_lie_on_the_joints(dataset: Path) -> None:
    split = load_coco(dataset, "train")
    crops = TrainingCrops(split, top_down(sigma=1.0, **STILL))
    batch = crops.batch(0, np.arange(len(crops)))
    assert batch.images.shape == (len(crops), 3, 64, 64)
    assert batch.images.dtype == batch.targets["heatmaps"].dtype == np.float32
    labelled = np.array([person.joints[:, 2] > 0 for person in split.all_persons()])
    # Every labelled joint lies in the person's own crop, because the box is padded.
    assert (batch.weights["heatmaps"] > 0).sum() >= 0.95 * labelled.sum()
    assert not (batch.weights["heatmaps"][~labelled]).any()
    assert batch.targets["heatmaps"][batch.weights["heatmaps"] == 0].max() == 0


def test_mirroring_MIRROREDs_left_and_right(dataset: Path) -> None:
    split = load_coco(dataset, "train")
    plain = TrainingCrops(split, top_down(**STILL)).batch(0, np.arange(4))
    mirrored = TrainingCrops(split, top_down(**{**STILL, "flip_probability": 1.0})).batch(0, np.arange(4))
    # A column of difference: warping rounds to fractions of a pixel.
    assert np.abs(mirrored.images[..., ::-1] - plain.images).mean() < 0.05
    assert np.array_equal(mirrored.weights["heatmaps"], plain.weights["heatmaps"][:, MIRRORED])
    points, _ = find_peaks(plain.targets["heatmaps"])
    turned, _ = find_peaks(mirrored.targets["heatmaps"])
    both = mirrored.weights["heatmaps"] > 0
    # Pixel x of the input becomes W-1-x: in heatmap pixels 15.75 - x.
    error = turned[..., 0][both] - (15.75 - points[:, MIRRORED, 0][both])
    assert np.abs(error).max() <= 1.0
    assert np.abs(error).mean() < 0.4


def test_crops_do_not_depend_on_the_batch_or_the_cache(dataset: Path) -> None:
    split = load_coco(dataset, "train")
    crops, uncached = TrainingCrops(split, top_down()), TrainingCrops(split, top_down(cache_mb=0))
    together = crops.batch(1, np.array([0, 1, 2]))
    alone = uncached.batch(1, np.array([2]))
    assert np.array_equal(together.images[2], alone.images[0])
    assert np.array_equal(together.targets["heatmaps"][2], alone.targets["heatmaps"][0])
    assert not np.array_equal(crops.batch(2, np.array([2])).images[0], alone.images[0])


def test_joints_that_the_data_set_lacks_have_no_weight(dataset: Path) -> None:
    fields = top_down(skeleton="mpii16", **STILL)
    batch = TrainingCrops(load_coco(dataset, "train"), fields).batch(0, np.arange(8))
    joints = fields.model_config_for("w").joints.joints
    lacking = [i for i, joint in enumerate(joints) if joint not in COCO17.joints]
    assert not batch.weights["heatmaps"][:, lacking].any()
    assert batch.weights["heatmaps"][:, joints.index("left_knee")].any()
