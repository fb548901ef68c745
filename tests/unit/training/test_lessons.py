from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.run import RunConfig
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.inference import calibration_batches
from hpe_tasks.inference.lessons import UnlabelledLessons
from hpe_tasks.models.checkpoint import sample_checkpoint
from hpe_tasks.quantization import quantize_model
from hpe_tasks.training.lessons import LabelledLessons

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ModelConfig(architecture="pose_mobilenet", checkpoint="sample", input_width=96, input_height=128)
RECIPE = QuantizationRecipe(
    scheme="min_max",
    param_bw=4,
    distillation_steps=8,
    distillation_batch=4,
    distillation_labels=True,
)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    make_sample(folder, SampleSpec(train=8, calibration=6, val=1, width=200, height=150, seed=2))
    return folder


def lessons_of(people: Path, seed: int = 0) -> LabelledLessons:
    apart = UnlabelledLessons(load_coco(people, "calibration"), SMALL, seed=seed, batch_size=4)
    return LabelledLessons(apart, load_coco(people, "train"), SMALL, seed=seed, batch_size=4)


def test_labelled_lessons_say_what_the_network_should_give(people: Path) -> None:
    lessons = lessons_of(people)
    batches = list(lessons.batches(0, 5))
    for batch in batches:
        assert batch.images.shape[1:] == (3, 128, 96)
        assert batch.targets["heatmaps"].shape == (len(batch.images), 17, 32, 24)
        assert batch.weights["heatmaps"].max() == 1
    for one, again in zip(batches[2:], lessons.batches(2, 3), strict=True):
        np.testing.assert_array_equal(one.images, again.images)
    assert (lessons.labelled, lessons.num_learnt) == (True, load_coco(people, "train").num_persons)
    apart = np.concatenate(list(lessons.held_out()))
    assert len(apart) == lessons.num_held_out


def test_a_network_learns_from_labels_as_well(people: Path, tmp_path: Path) -> None:
    calibration = load_coco(people, "calibration")
    files = quantize_model(
        SMALL,
        RECIPE,
        sample_checkpoint(),
        calibration_batches(calibration, SMALL, 8),
        tmp_path,
        "cpu",
        lessons_of(people),
    )
    told = files.distillation
    assert told is not None
    assert told.labelled
    assert told.loss_after < 0.9 * told.loss_before


WRONG = {
    "no training split": ({}, {}, "needs dataset.training_split"),
    "a user's file": ({"training_split": "train2017"}, {"architecture": "onnx"}, "a network that the project builds"),
    "what judges": ({"training_split": "val2017"}, {}, "must not learn from the images that judge it"),
    "further images by address": (
        {"training_split": "train", "images_by_url": True},
        {},
        "set training_split to the calibration_split",
    ),
}


@pytest.mark.parametrize(("dataset", "model", "refusal"), WRONG.values(), ids=WRONG)
def test_labels_are_refused_where_there_are_none_to_learn_from(
    dataset: dict[str, object], model: dict[str, object], refusal: str
) -> None:
    asked = {
        "model": {"checkpoint": "w.pth", **model},
        "dataset": {"source": "coco", **dataset},
        "recipe": {"distillation_labels": True, "distillation_steps": 10},
    }
    with pytest.raises(ValueError, match=refusal):
        RunConfig.model_validate(asked)
