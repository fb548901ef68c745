from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest

from hpe_tasks.pose.drawing import (
    CENTRE,
    LEFT,
    OUTLINE,
    RIGHT,
    Stroke,
    draw_pose,
    draw_poses,
    joint_colour,
    limb_colour,
)
from hpe_tasks.pose.skeletons import COCO17, EFFICIENTPOSE16, MPII16, Skeleton

GREY = np.full((120, 160, 3), 127, dtype=np.uint8)
ARM = Skeleton("arm", ("left_elbow", "left_wrist"), (("left_elbow", "left_wrist"),))


def has_colour(image: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(image.astype(int) - colour).max(axis=-1) <= 2).any())


@pytest.mark.parametrize(
    ("joint", "colour"), [("left_wrist", LEFT), ("right_eye", RIGHT), ("nose", CENTRE), ("upper_neck", CENTRE)]
)
def test_joint_colour_is_its_side(joint: str, colour: tuple[int, int, int]) -> None:
    assert joint_colour(joint) == colour


@pytest.mark.parametrize(
    ("limb", "colour"),
    [
        (("left_elbow", "left_wrist"), LEFT),
        (("right_hip", "right_knee"), RIGHT),
        (("left_hip", "right_hip"), CENTRE),
        (("nose", "left_eye"), LEFT),
        (("thorax", "pelvis"), CENTRE),
    ],
    ids=lambda value: "-".join(map(str, value)),
)
def test_limb_colour_is_the_side_it_lies_on(limb: tuple[str, str], colour: tuple[int, int, int]) -> None:
    assert limb_colour(*limb) == colour


@pytest.mark.parametrize("skeleton", [COCO17, MPII16, EFFICIENTPOSE16], ids=lambda s: s.name)
@pytest.mark.parametrize("background", [0, 127, 255])
def test_every_skeleton_stands_out_on_any_background(skeleton: Skeleton, background: int) -> None:
    image = np.full((200, 200, 3), background, dtype=np.uint8)
    joints = len(skeleton.joints)
    points = np.random.default_rng(0).uniform(20, 180, (joints, 2))
    drawn = draw_pose(image, points, np.ones(joints), skeleton)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    for colour in (LEFT, RIGHT, CENTRE, OUTLINE):
        assert has_colour(drawn, colour)


def test_the_given_image_stays_as_it_was() -> None:
    image = GREY.copy()
    draw_pose(image, np.array([(20.0, 20.0), (100.0, 80.0)]), np.ones(2), ARM)
    assert np.array_equal(image, GREY)


def test_a_joint_is_centred_on_its_pixel() -> None:
    drawn = draw_pose(GREY, np.array([(50.0, 40.0), (0.0, 0.0)]), np.array([1.0, 0.0]), ARM, box=(0, 0, 80, 400))
    rows, columns = np.nonzero((drawn != 127).any(axis=-1))
    assert (rows.min() + rows.max()) / 2 == 40
    assert (columns.min() + columns.max()) / 2 == 50


def test_edges_are_anti_aliased() -> None:
    drawn = draw_pose(GREY, np.array([(20.0, 20.0), (140.0, 90.0)]), np.ones(2), ARM)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize(
    ("scores", "limb", "joint"),
    [((0.9, 0.9), True, True), ((0.9, 0.1), False, True), ((0.1, 0.1), False, False), ((0.2, 0.2), True, True)],
    ids=["both", "one", "none", "at the threshold"],
)
def test_joints_below_the_threshold_are_left_out_with_their_limbs(
    scores: tuple[float, float], limb: bool, joint: bool
) -> None:
    drawn = draw_pose(GREY, np.array([(30.0, 60.0), (130.0, 60.0)]), np.array(scores), ARM, threshold=0.2)
    assert has_colour(drawn[58:63, 75:85], LEFT) == limb
    assert has_colour(drawn[55:66, 25:36], LEFT) == joint


def test_lines_grow_with_the_person_between_bounds() -> None:
    heights = (20, 100, 300, 600, 5000)
    lines = [Stroke.for_height(height).line for height in heights]
    assert lines == sorted(lines)
    assert lines[0] == 1.6
    assert lines[-1] == 32.0
    points = np.array([(30.0, 30.0), (100.0, 90.0)])
    changed = [(draw_pose(GREY, points, np.ones(2), ARM, box=(0, 0, 9, h)) != 127).sum() for h in (100, 400)]
    assert changed[0] < changed[1]


@pytest.mark.parametrize(
    "points",
    [
        [(-500.0, -500.0), (-400.0, -400.0)],
        [(1e9, 1e9), (1e9, 1e9)],
        [(float("nan"), 3.0), (float("inf"), 3.0)],
    ],
    ids=["left of the image", "far away", "not finite"],
)
def test_what_lies_outside_draws_nothing(points: list[tuple[float, float]]) -> None:
    assert np.array_equal(draw_pose(GREY, np.array(points), np.ones(2), ARM), GREY)


@pytest.mark.parametrize("corner", [(0.0, 0.0), (159.0, 119.0), (-3.0, 60.0)])
def test_a_skeleton_across_the_border_is_clipped(corner: tuple[float, float]) -> None:
    drawn = draw_pose(GREY, np.array([corner, (80.0, 60.0)]), np.ones(2), ARM)
    assert has_colour(drawn, LEFT)


def test_a_lying_person_is_as_tall_as_a_standing_one() -> None:
    points = np.array([(30.0, 60.0), (130.0, 60.0)])
    standing, lying = (draw_pose(GREY, points, np.ones(2), ARM, box=(0, 0, *size)) for size in ((100, 400), (400, 100)))
    assert np.array_equal(standing, lying)


def test_a_small_person_stays_visible_in_front_of_a_large_one() -> None:
    points = np.array([[(80.0, 10.0), (80.0, 110.0)], [(10.0, 60.0), (150.0, 60.0)]])
    boxes = np.array([(0, 0, 20, 300), (0, 0, 160, 1500)], dtype=np.float64)
    drawn = draw_poses(GREY, points, np.ones((2, 2)), ARM, boxes=boxes)
    assert np.array_equal(draw_poses(GREY, points[::-1], np.ones((2, 2)), ARM, boxes=boxes[::-1]), drawn)
    assert drawn[60, 70:90].min(axis=-1).min() < 60  # the small one's dark outline, across the large one's limb


def test_persons_without_a_joint_to_show_leave_the_others_alone() -> None:
    points = np.array([[(np.nan, np.nan), (np.nan, np.nan)], [(100.0, 20.0), (140.0, 60.0)]])
    drawn = draw_poses(GREY, points, np.ones((2, 2)), ARM)
    assert np.array_equal(drawn, draw_pose(GREY, points[1], np.ones(2), ARM))


def test_one_tall_person_is_drawn_at_once() -> None:
    image = np.full((480, 640, 3), 127, dtype=np.uint8)
    points = np.random.default_rng(3).uniform((200, 40), (400, 440), (17, 2))
    seconds = []
    for _ in range(7):
        start = time.process_time()
        draw_pose(image, points, np.ones(17), COCO17)
        seconds.append(time.process_time() - start)
    # CPU time, so that other work on the machine does not count: some 5 ms on one of 2023.
    assert min(seconds) < 0.02


def test_a_limb_across_a_large_image_takes_little_memory() -> None:
    image = np.full((4000, 6000, 3), 127, dtype=np.uint8)
    points = np.array([(10.0, 10.0), (5990.0, 3990.0)])
    tracemalloc.start()
    try:
        drawn = draw_pose(image, points, np.ones(2), ARM)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Beside the picture itself; a float for each pixel of the limb's bounding box would be 96 MB or more.
    assert peak - drawn.nbytes < 64e6
    assert has_colour(drawn[1990:2010, 2990:3010], LEFT)


@pytest.mark.parametrize("degrees", [0, 0.5, 7, 45, 83, 89.5, 90, 135, 210, 301])
@pytest.mark.parametrize("middle", [(80.3, 59.8), (4.0, 5.0), (300.0, 60.0)], ids=["inside", "corner", "beyond"])
def test_a_limb_covers_what_lies_near_it_and_nothing_else(degrees: float, middle: tuple[float, float]) -> None:
    half = 70 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    ends = np.array([middle - half, middle + half])
    stroke = Stroke(line=5.0, joint_radius=2.5, outline=1.5)
    changed = (draw_pose(GREY, ends, np.ones(2), ARM, stroke=stroke) != GREY).any(axis=-1)
    pixels = np.stack(np.meshgrid(np.arange(160), np.arange(120)), axis=-1) - ends[0]
    along = ends[1] - ends[0]
    nearest = np.clip(pixels @ along / (along @ along), 0, 1)
    distance = np.linalg.norm(pixels - nearest[..., None] * along, axis=-1)
    assert changed[distance < 4.4].all()
    assert not changed[distance > 4.51].any()


def test_persons_are_drawn_one_after_the_other() -> None:
    points = np.array([[(20.0, 20.0), (60.0, 60.0)], [(100.0, 20.0), (140.0, 60.0)]])
    together = draw_poses(GREY, points, np.ones((2, 2)), ARM)
    apart = draw_pose(draw_pose(GREY, points[0], np.ones(2), ARM), points[1], np.ones(2), ARM)
    assert np.array_equal(together, apart)


@pytest.mark.parametrize(
    ("image", "points", "scores", "names"),
    [
        (GREY.astype(np.float32), (2, 2), (2,), "image"),
        (GREY[..., 0], (2, 2), (2,), "image"),
        (GREY, (3, 2), (2,), "joints"),
        (GREY, (2, 2), (3,), "scores"),
    ],
    ids=["float image", "grey image", "too many joints", "too many scores"],
)
def test_wrong_shapes_are_named(
    image: np.ndarray, points: tuple[int, ...], scores: tuple[int, ...], names: str
) -> None:
    with pytest.raises(ValueError, match=names):
        draw_pose(image, np.zeros(points), np.zeros(scores), ARM)


def test_it_imports_what_the_lambda_function_has_and_nothing_else() -> None:
    code = "import sys, hpe_tasks.pose.drawing; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"PIL", "cv2", "torch", "scipy", "pandas", "pydantic", "matplotlib"} & set(done.stdout.split())


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-40, 1e-170])
def test_joints_in_one_place_are_a_dot(length: float) -> None:
    drawn = draw_pose(GREY, np.array([(50.0, 40.0), (50.0, 40.0 + length)]), np.ones(2), ARM, box=(0, 0, 80, 400))
    rows, columns = np.nonzero((drawn != 127).any(axis=-1))
    assert np.ptp(rows) == np.ptp(columns) < 20


def test_a_fourth_value_of_a_pixel_stays_as_it_is() -> None:
    image = np.dstack([GREY, np.full(GREY.shape[:2], 9, np.uint8)])
    points, scores = np.array([(20.0, 20.0), (140.0, 90.0)]), np.ones(2)
    drawn = draw_pose(image, points, scores, ARM)
    assert np.array_equal(drawn[..., :3], draw_pose(GREY, points, scores, ARM))
    assert (drawn[..., 3] == 9).all()
