"""The joint error, from heatmaps and from fields whose joints are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.joint_search.joints import JointError, _compared, _ImageJoints
from hpe_tasks.pose.codecs.heatmaps import encode_heatmaps
from support.tiny_networks import aimet_config

SIZE = (192, 256)
FALLOFF = 0.075 * 256


def heatmaps(moved: float, height: float = 1.0) -> dict[str, np.ndarray]:
    """Of one person, all of whose joints lie at (24 + `moved`, 32) cells; four pixels are one cell."""
    points = np.tile([24.0 + moved, 32.0], (1, 17, 1))
    maps, _ = encode_heatmaps(points, np.ones((1, 17)), (48, 64), 1.25)
    return {"heatmaps": (height * maps).astype(np.float32)}


def error_of(outputs: dict[str, np.ndarray]) -> tuple[float, float]:
    config = ModelConfig(checkpoint="sample")
    images = np.zeros((1, 3, *SIZE[::-1]), np.float32)
    return JointError(config, [images], [heatmaps(0)]).of([outputs])


@pytest.mark.parametrize(("cells", "pixels"), [(0, 0), (2, 8), (5, 20), (20, 80)])
def test_joints_are_lost_as_far_as_they_move(cells: float, pixels: float) -> None:
    error, noise = error_of(heatmaps(cells))
    assert error == pytest.approx(1 - math.exp(-(pixels**2) / (2 * FALLOFF**2)), abs=1e-6)
    assert (noise > 0) == (cells > 0)


def test_lower_peaks_at_the_same_place_are_noise_and_no_error() -> None:
    error, noise = error_of(heatmaps(0, 0.5))
    assert error == 0
    assert noise == pytest.approx(0.25)


def test_a_person_without_a_peak_is_lost() -> None:
    assert error_of(heatmaps(0, 0.0))[0] == 1


def people(*places: float) -> _ImageJoints:
    joints = np.array([np.full((17, 2), place) for place in places]).reshape(-1, 17, 2)
    return _ImageJoints(joints, np.ones(joints.shape[:2]))


@pytest.mark.parametrize(
    ("wanted", "found", "error"),
    [
        pytest.param((0, 500), (500, 0), 0, id="in another order"),
        pytest.param((0, 500), (0,), 1 / 2, id="one is missed"),
        pytest.param((0,), (0, 500), 1 / 2, id="one is invented"),
        pytest.param((), (), None, id="nobody"),
        pytest.param((0,), (), 1, id="all are missed"),
    ],
)
def test_people_are_matched_missed_and_invented(
    wanted: tuple[float, ...], found: tuple[float, ...], error: float | None
) -> None:
    lost, total = _compared(people(*wanted), people(*found), FALLOFF)
    assert (lost / total if total else None) == (None if error is None else pytest.approx(error))


def test_whole_images_are_decoded_one_by_one() -> None:
    config = aimet_config()
    images = [np.zeros((2, 3, 48, 64), np.float32), np.zeros((1, 3, 64, 48), np.float32)]
    rng = np.random.default_rng(0)
    outputs = [
        {
            "pafs": rng.normal(size=(len(batch), 38, *(side // 8 for side in batch.shape[2:]))).astype(np.float32),
            "heatmaps": np.zeros((len(batch), 19, *(side // 8 for side in batch.shape[2:])), np.float32),
        }
        for batch in images
    ]
    assert JointError(config, images, outputs).of(outputs) == (0.0, 0.0)
