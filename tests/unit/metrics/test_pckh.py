"""PCKh against values computed by hand, and against the plainest loop that follows its definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpe_tasks.metrics.pckh import PCKH_GROUPS, pckh_by_joint, pckh_stats
from hpe_tasks.pose.skeletons import MPII16
from hpe_tasks.records.evaluation import PckhStats

JOINT = {joint: i for i, joint in enumerate(MPII16.joints)}
GROUPS = list(PCKH_GROUPS)
HEAD_BOX = ((100.0, 100.0), (160.0, 180.0))  # Diagonal 100: the head's size is 60, half of it 30 pixels.
ALL_RIGHT = dict.fromkeys([*GROUPS, "mean", "mean_at_01", "mean_at_exactly_01"], 100.0)


def truth(persons: int = 1) -> np.ndarray:
    return np.arange(persons * 32, dtype=np.float64).reshape(persons, 16, 2) * 10


def score(
    shifts: dict[str | tuple[str, int], tuple[float, float]], persons: int = 1, missing: tuple[str, ...] = ()
) -> PckhStats:
    """PCKh when joints are off by `shifts`: by name in the first person, or by (name, person)."""
    predictions = truth(persons)
    for key, shift in shifts.items():
        joint, person = key if isinstance(key, tuple) else (key, 0)
        predictions[person, JOINT[joint]] += shift
    visible = np.ones((persons, 16))
    visible[:, [JOINT[joint] for joint in missing]] = 0
    return pckh_stats(predictions, truth(persons), visible, [HEAD_BOX] * persons)


def test_perfect_predictions_have_100_percent_in_every_column() -> None:
    stats = score({}, persons=3)
    assert stats.model_dump() == ALL_RIGHT | {"num_joints": 3 * 14}


@pytest.mark.parametrize(
    ("shifts", "persons", "changed"),
    [
        pytest.param({"left_wrist": (30.0, 0.0)}, 1, {"mean_at_01": 1300 / 14}, id="half-a-head-is-right"),
        pytest.param({"left_wrist": (18.0, 24.0)}, 1, {"mean_at_01": 1300 / 14}, id="distance-is-euclidean"),
        pytest.param(
            {"left_wrist": (30.001, 0.0)}, 1, {"wrist": 50.0, "mean": 1300 / 14}, id="more-than-half-is-wrong"
        ),
        pytest.param({"head_top": (99.0, 0.0)}, 1, {"head": 0.0, "mean": 1300 / 14}, id="head-is-the-top-alone"),
        pytest.param({"upper_neck": (99.0, 0.0)}, 1, {"mean": 1300 / 14}, id="neck-counts-in-the-mean-only"),
        pytest.param(
            {"pelvis": (999.0, 0.0), "thorax": (0.0, 999.0)}, 1, {"mean_at_01": 100.0}, id="pelvis-and-thorax-left-out"
        ),
        pytest.param(
            {("left_knee", 0): (99.0, 0.0), ("left_knee", 1): (99.0, 0.0), ("right_knee", 3): (0.0, -99.0)},
            4,
            {"knee": (50.0 + 75.0) / 2, "mean": 100 * 53 / 56},
            id="sides-averaged-over-persons",
        ),
    ],
)
def test_known_errors_have_the_values_computed_by_hand(
    shifts: dict[Any, tuple[float, float]], persons: int, changed: dict[str, float]
) -> None:
    expected = ALL_RIGHT | {"num_joints": 14 * persons} | changed
    if "mean" in changed:  # What is wrong at half a head is wrong at a tenth.
        expected["mean_at_01"] = changed["mean"]
    expected["mean_at_exactly_01"] = expected["mean_at_01"]
    assert score(shifts, persons).model_dump() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pixels", "published", "exact"),
    [
        pytest.param(5.9, 100.0, 100.0, id="under-both"),
        pytest.param(6.3, 0.0 + 1300 / 14 + 100 / 14, 1300 / 14, id="between-0.10-and-0.11"),
        pytest.param(6.7, 1300 / 14, 1300 / 14, id="over-both"),
    ],
)
def test_mean_at_01_is_computed_at_011_as_published(pixels: float, published: float, exact: float) -> None:
    stats = score({"left_hip": (0.0, pixels)})
    assert stats.mean_at_01 == pytest.approx(published)
    assert stats.mean_at_exactly_01 == pytest.approx(exact)
    assert stats.mean == 100.0


def test_joints_that_are_not_labelled_do_not_count() -> None:
    stats = score({"left_ankle": (999.0, 0.0), "right_elbow": (math.nan, 0.0)}, missing=("left_ankle", "right_elbow"))
    assert stats.model_dump() == ALL_RIGHT | {"num_joints": 12}


def test_a_group_without_a_labelled_joint_is_none_and_one_side_stands_alone() -> None:
    stats = score({"left_hip": (999.0, 0.0)}, missing=("left_wrist", "right_wrist", "right_hip", "head_top"))
    assert (stats.wrist, stats.hip, stats.head) == (None, 0.0, None)
    assert stats.mean == 90.0


@pytest.mark.parametrize("persons", [0, 2])
def test_nothing_labelled_is_none_everywhere(persons: int) -> None:
    stats = pckh_stats(
        truth(persons), truth(persons), np.zeros((persons, 16)), np.array([HEAD_BOX] * persons).reshape(-1, 2, 2)
    )
    assert stats.model_dump() == dict.fromkeys(ALL_RIGHT, None) | {"num_joints": 0}


def test_each_joint_has_its_own_percentage() -> None:
    predictions, visible = truth(4), np.ones((4, 16))
    predictions[0, JOINT["left_knee"]] += 99
    predictions[:3, JOINT["pelvis"]] += 99
    visible[0, JOINT["pelvis"]] = 0
    visible[:, JOINT["head_top"]] = 0
    by_joint = pckh_by_joint(predictions, truth(4), visible, [HEAD_BOX] * 4)
    changed = {"left_knee": 75.0, "pelvis": 100 / 3, "head_top": None}
    assert by_joint == pytest.approx(dict.fromkeys(MPII16.joints, 100.0) | changed)
    assert list(by_joint) == list(MPII16.joints)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"predictions": np.zeros((1, 15, 2))}, "predictions must be 1×16×2, not 1×15×2", id="joints"),
        pytest.param({"truth": np.zeros((2, 16, 2))}, "truth must be 1×16×2, not 2×16×2", id="persons"),
        pytest.param({"visible": np.ones((1, 16, 1))}, "visible must be 1×16, not 1×16×1", id="visible"),
        pytest.param({"head_boxes": np.ones((1, 4))}, "head_boxes must be 1×2×2, not 1×4", id="flat-boxes"),
        pytest.param({"head_boxes": np.ones((1, 2, 2))}, "have a size", id="head-without-size"),
        pytest.param({"head_boxes": np.full((1, 2, 2), np.nan)}, "finite and have a size", id="head-of-nan"),
        pytest.param({"predictions": np.full((1, 16, 2), np.nan)}, "must be finite", id="nan-prediction"),
    ],
)
def test_input_that_does_not_fit_is_refused(changes: dict[str, np.ndarray], message: str) -> None:
    good: dict[str, Any] = {
        "predictions": truth(),
        "truth": truth(),
        "visible": np.ones((1, 16)),
        "head_boxes": [HEAD_BOX],
    }
    with pytest.raises(ValueError, match=message):
        pckh_stats(**(good | changes))
    with pytest.raises(ValueError, match=message):
        pckh_by_joint(**(good | changes))


def plain_percentage(
    predictions: np.ndarray,
    expected: np.ndarray,
    visible: np.ndarray,
    boxes: np.ndarray,
    joints: list[int],
    threshold: float,
) -> tuple[int, int]:
    """Right and labelled joints among `joints`, one after the other."""
    right = labelled = 0
    for person in range(len(expected)):
        (x1, y1), (x2, y2) = boxes[person]
        head = 0.6 * math.sqrt((x2 - x1) ** 2 + (y2 - y1) ** 2)
        for joint in joints:
            if visible[person][joint]:
                dx, dy = predictions[person][joint] - expected[person][joint]
                labelled += 1
                right += math.sqrt(dx * dx + dy * dy) / head <= threshold
    return right, labelled


def plain_stats(
    predictions: np.ndarray, expected: np.ndarray, visible: np.ndarray, boxes: np.ndarray
) -> dict[str, float | None]:
    def percent(joints: list[int], threshold: float) -> float | None:
        right, labelled = plain_percentage(predictions, expected, visible, boxes, joints, threshold)
        return 100 * right / labelled if labelled else None

    columns: dict[str, float | None] = {}
    for group, names in PCKH_GROUPS.items():
        sides = [value for name in names if (value := percent([JOINT[name]], 0.5)) is not None]
        columns[group] = sum(sides) / len(sides) if sides else None
    counted = [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15]
    columns |= {"mean": percent(counted, 0.5), "mean_at_01": percent(counted, 0.11)}
    columns |= {"mean_at_exactly_01": percent(counted, 0.1)}
    columns["num_joints"] = plain_percentage(predictions, expected, visible, boxes, counted, 0.5)[1]
    return columns


# Eighths of a pixel: distances are exact enough that no sum of rounding errors decides a comparison.
COORDINATES = st.integers(-800, 800).map(lambda eighths: eighths / 8)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), persons=st.integers(1, 4))
def test_any_scene_agrees_with_the_plain_loop(data: st.DataObject, persons: int) -> None:
    expected = data.draw(arrays(np.float64, (persons, 16, 2), elements=COORDINATES))
    offsets = data.draw(arrays(np.float64, (persons, 16, 2), elements=st.integers(-40, 40).map(float)))
    visible = data.draw(arrays(np.bool_, (persons, 16)))
    corners = data.draw(arrays(np.float64, (persons, 2), elements=COORDINATES))
    sides = data.draw(arrays(np.float64, (persons, 2), elements=st.integers(20, 90).map(float)))
    boxes = np.stack([corners, corners + sides], axis=1)
    stats = pckh_stats(expected + offsets, expected, visible, boxes)
    assert stats.model_dump() == pytest.approx(plain_stats(expected + offsets, expected, visible, boxes))
    for joint, percent in pckh_by_joint(expected + offsets, expected, visible, boxes).items():
        right, labelled = plain_percentage(expected + offsets, expected, visible, boxes, [JOINT[joint]], 0.5)
        assert percent == (pytest.approx(100 * right / labelled) if labelled else None)
