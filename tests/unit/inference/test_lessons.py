from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import DatasetError
from hpe_tasks.inference import calibration_batches
from hpe_tasks.inference.augmentation import CalibrationAmounts
from hpe_tasks.inference.lessons import UnlabelledLessons
from support import tiny_networks as tiny

CROPS, SCENES = tiny.mobilenet_config(), tiny.aimet_config()
STILL = CalibrationAmounts(flip_probability=0.0, rotation_degrees=0.0, scale_range=0.0, shift_range=0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    folder = tmp_path_factory.mktemp("people")
    make_sample(folder, SampleSpec(train=1, calibration=9, val=1, width=200, height=150, seed=2))
    return load_coco(folder, "calibration")


def taught(dataset: CocoDataset, model: ModelConfig, first: int = 0, steps: int = 6, seed: int = 0) -> list[np.ndarray]:
    lessons = UnlabelledLessons(dataset, model, seed=seed, batch_size=4)
    return [batch.images for batch in lessons.batches(first, steps)]


@pytest.mark.parametrize("model", [CROPS, SCENES], ids=["crops", "whole images"])
def test_lessons_depend_on_seed_and_step_only(model: ModelConfig, dataset: CocoDataset) -> None:
    batches = taught(dataset, model)
    assert len(batches) == 6
    for one, again in zip(batches[3:], taught(dataset, model, first=3, steps=3), strict=True):
        np.testing.assert_array_equal(one, again)
    assert not np.array_equal(batches[0], taught(dataset, model, seed=1)[0])
    sizes = {(3, height, width) for width, height in {(64, 64)} | {(64, 48), (48, 64)}}
    assert {batch.shape[1:] for batch in batches} <= sizes


@pytest.mark.parametrize("model", [CROPS, SCENES], ids=["crops", "whole images"])
def test_every_example_comes_once_in_an_epoch_and_what_is_held_out_never(
    model: ModelConfig, dataset: CocoDataset
) -> None:
    lessons = UnlabelledLessons(dataset, model, seed=0, batch_size=1, amounts=STILL)
    everything = np.concatenate(list(calibration_batches(dataset, model, 1)))
    assert lessons.num_learnt + lessons.num_held_out == len(everything)
    apart = np.concatenate(list(lessons.held_out()))
    assert len(apart) == lessons.num_held_out > 0
    learnt = [batch.images[0] for batch in lessons.batches(0, lessons.num_learnt)]

    def nearest(view: np.ndarray) -> int:
        return int(np.abs(everything - view).mean(axis=(1, 2, 3)).argmin())

    seen, held = [nearest(view) for view in learnt], [nearest(view) for view in apart]
    assert sorted(seen + held) == list(range(len(everything)))


def test_of_annotations_nothing_but_boxes_is_read(dataset: CocoDataset) -> None:
    """Joints that nobody could use, and for whole images no persons at all."""
    blank = {
        image: tuple(replace(p, joints=np.full_like(p.joints, np.nan), num_joints=0, area=0.0) for p in persons)
        for image, persons in dataset.persons_by_image.items()
    }
    for one, other in zip(taught(dataset, CROPS), taught(replace(dataset, persons_by_image=blank), CROPS), strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(taught(dataset, SCENES), taught(replace(dataset, persons_by_image={}), SCENES), strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_image_cannot_be_learnt_from(dataset: CocoDataset) -> None:
    alone = dataset.subset(dataset.image_ids[:1])
    with pytest.raises(DatasetError, match="cannot learn from one image"):
        UnlabelledLessons(alone, CROPS, seed=0, batch_size=4)


def test_an_image_that_vanished_is_named(dataset: CocoDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is missing"):
        taught(replace(dataset, root=tmp_path), CROPS)
