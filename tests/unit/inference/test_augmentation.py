"""Changed copies of calibration images."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.inference import calibration_batches, missing_inputs
from hpe_tasks.inference.augmentation import CalibrationAmounts, augmented_batches, place_crop, place_image
from hpe_tasks.pose.crops import crop_matrix, transform_points
from support import coco_factory as coco

CROPS = ModelConfig(checkpoint="unused", architecture="onnx", input_width=48, input_height=64)
WHOLE = ModelConfig(architecture="aimet_pose", codec="paf", checkpoint="unused", input_width=64, input_height=48)
NO_CHANGE = CalibrationAmounts(flip_probability=0, rotation_degrees=0, scale_range=0, shift_range=0)


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    """Three images with two persons each."""
    return load_coco(coco.write_coco(tmp_path), coco.CALIBRATION)


@pytest.mark.parametrize(
    ("model", "wanted", "missing"),
    [
        pytest.param(CROPS, 3, 0, id="enough"),
        pytest.param(CROPS, 2, 0, id="more than enough"),
        pytest.param(CROPS, 10, 14, id="two crops of each of seven images"),
        pytest.param(WHOLE, 10, 7, id="seven images"),
    ],
)
def test_as_many_copies_as_the_missing_images_would_give(
    dataset: CocoDataset, model: ModelConfig, wanted: int, missing: int
) -> None:
    assert missing_inputs(dataset, model, wanted) == missing


@pytest.mark.parametrize(
    ("model", "own"), [pytest.param(CROPS, 6, id="crops"), pytest.param(WHOLE, 3, id="whole images")]
)
def test_copies_follow_the_images_themselves(dataset: CocoDataset, model: ModelConfig, own: int) -> None:
    plain = np.concatenate(list(calibration_batches(dataset, model, 4)))
    batches = list(calibration_batches(dataset, model, 4, augmented=11, seed=3))
    together = np.concatenate(batches)
    assert max(map(len, batches)) == 4
    assert together.dtype == np.float32
    assert len(plain) == own
    assert_array_equal(together[:own], plain)
    assert len(together) == own + 11
    # None is as another, nor as one of those that were there.
    assert len({one.tobytes() for one in together}) == own + 11


def test_the_seed_decides_and_nothing_else(dataset: CocoDataset) -> None:
    def copies(batch_size: int, number: int, seed: int) -> np.ndarray:
        return np.concatenate(list(augmented_batches(dataset, CROPS, batch_size, number, seed)))

    first = copies(4, 9, 0)
    assert_array_equal(copies(3, 9, 0), first)
    assert_array_equal(copies(4, 5, 0), first[:5])
    assert (copies(4, 9, 1) != first).any()


def test_values_stay_those_of_pixels(dataset: CocoDataset) -> None:
    """Normalized as any other input: ranges must not reach beyond what images can show."""
    mean, std = np.array(CROPS.mean), np.array(CROPS.std)
    copies = next(islice(augmented_batches(dataset, CROPS, 8, 8, 0), 1))
    levels = (copies * std[:, None, None] + mean[:, None, None]) * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    assert levels.min() >= -1e-3
    assert levels.max() <= 255.001


def test_no_change_is_where_an_evaluation_looks() -> None:
    region = np.array([31.0, 22.0]), np.array([0.21, 0.28])
    rng = np.random.default_rng(0)
    matrix, flip = place_crop(region, (48, 64), NO_CHANGE, rng)
    assert not flip
    np.testing.assert_allclose(matrix, crop_matrix(*region, (48, 64)), atol=1e-12)
    matrix, flip = place_image((640, 480), (64, 48), NO_CHANGE, rng)
    np.testing.assert_allclose(transform_points([[-0.5, -0.5], [639.5, 479.5]], matrix), [[-0.5, -0.5], [63.5, 47.5]])


@pytest.mark.parametrize("whole", [False, True], ids=["crop", "whole image"])
def test_a_mirrored_one_is_the_mirror_image(whole: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    size = (64, 48)
    plain, mirrored = (
        cv2.warpAffine(pixels, place(amounts)[0], size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for place in [
            lambda amounts: (
                place_image((128, 96), size, amounts, np.random.default_rng(1))
                if whole
                else place_crop((np.array([60.0, 40.0]), np.array([0.4, 0.3])), size, amounts, np.random.default_rng(1))
            )
        ]
        for amounts in (NO_CHANGE, CalibrationAmounts(1, 0, 0, 0))
    )
    # Sampling points are rounded to 1/32 of a pixel.
    assert np.abs(mirrored[:, ::-1].astype(int) - plain).max() <= 8
    assert (mirrored != plain).any()
