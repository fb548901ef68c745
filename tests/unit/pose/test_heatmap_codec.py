from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.codecs.heatmaps import decode_heatmaps, encode_heatmaps, find_peaks
from hpe_tasks.pose.crops import Poses, box_to_center_scale, crop_matrix, transform_points
from support.crop_matrices import inverse_crop_matrix

Point = tuple[float, float]
Size = tuple[int, int]
Box = tuple[float, float, float, float]

sizes = st.tuples(st.integers(8, 96), st.integers(8, 96))
centers = st.tuples(st.floats(-500, 5000), st.floats(-500, 5000))
extents = st.floats(0.02, 20)


def decode_slowly(heatmaps: np.ndarray, centers: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The decoder as the protocol words it, one joint at a time."""
    count, joints, height, width = heatmaps.shape
    keypoints, scores = np.zeros((count, joints, 2)), np.zeros((count, joints))
    for n in range(count):
        for j in range(joints):
            heatmap = heatmaps[n, j]
            index = int(np.argmax(heatmap))
            best = heatmap.flat[index]
            px, py = (index % width, index // width) if best > 0 else (0, 0)
            x, y = float(px), float(py)
            if 1 < px < width - 1 and 1 < py < height - 1:
                x += 0.25 * np.sign(heatmap[py, px + 1] - heatmap[py, px - 1])
                y += 0.25 * np.sign(heatmap[py + 1, px] - heatmap[py - 1, px])
            factor = width / (scales[n][0] * 200)
            keypoints[n, j] = (x - width / 2) / factor + centers[n][0], (y - height / 2) / factor + centers[n][1]
            scores[n, j] = best
    return keypoints, scores


@pytest.mark.parametrize(
    ("box", "image", "size", "center", "scale"),
    [
        pytest.param(
            (10, 20, 101, 201), (640, 480), (192, 256), (60, 120), (150 / 200 * 1.25, 200 / 200 * 1.25), id="tall"
        ),
        pytest.param(
            (10, 20, 201, 101),
            (640, 480),
            (192, 256),
            (110, 70),
            (200 / 200 * 1.25, 200 / 0.75 / 200 * 1.25),
            id="wide",
        ),
        pytest.param((-30, -10, 101, 51), (640, 480), (256, 256), (50, 25), (0.625, 0.625), id="starts-outside"),
        pytest.param((600, 400, 101, 201), (640, 480), (256, 256), (619.5, 439.5), (79 / 160,) * 2, id="ends-outside"),
        pytest.param((5, 5, 1, 41), (640, 480), (256, 256), (5, 25), (0.25, 0.25), id="one-pixel-wide"),
    ],
)
def test_a_box_becomes_center_and_scale(box: Box, image: Size, size: Size, center: Point, scale: Point) -> None:
    got_center, got_scale = box_to_center_scale(box, image, size)
    assert_allclose(got_center, center)
    assert_allclose(got_scale, scale)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((700, 10, 50, 50), id="right-of-the-image"),
        pytest.param((10, 500, 50, 50), id="below-the-image"),
        pytest.param((10, 10, 0, 0), id="empty"),
        pytest.param((10, 10, 1, 1), id="one-pixel"),
        pytest.param((float("nan"), 10, 50, 50), id="nan"),
    ],
)
def test_a_box_without_pixels_is_refused(box: Box) -> None:
    with pytest.raises(DatasetError, match="640×480"):
        box_to_center_scale(box, (640, 480), (192, 256))


@pytest.mark.parametrize(
    ("box", "center", "scale"),
    [
        pytest.param((10, 20, 101, 201), (60.5, 120.5), (201 / 160,) * 2, id="inside"),
        pytest.param((-30, -10, 100, 50), (20, 15), (0.625, 0.625), id="starts-outside"),
        pytest.param((600, 400, 100, 200), (650, 500), (1.25, 1.25), id="ends-outside"),
        pytest.param((639.3, 100, 0.7, 50), (639.65, 125), (0.3125, 0.3125), id="sliver-at-the-right-edge"),
        pytest.param((100, 479.2, 40, 0.8), (120, 479.6), (0.25, 0.25), id="sliver-at-the-bottom-edge"),
        pytest.param((10, 10, 0.5, 0.25), (10.25, 10.125), (1 / 320,) * 2, id="less-than-a-pixel"),
    ],
)
def test_a_box_that_is_not_clipped_is_taken_as_it_is(box: Box, center: Point, scale: Point) -> None:
    got_center, got_scale = box_to_center_scale(box, (640, 480), (256, 256), clip=False)
    assert_allclose(got_center, center)
    assert_allclose(got_scale, scale)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((640, 10, 50, 50), id="right-of-the-image"),
        pytest.param((-50, 10, 50, 50), id="left-of-the-image"),
        pytest.param((10, 480, 50, 50), id="below-the-image"),
        pytest.param((10, -50, 50, 50), id="above-the-image"),
        pytest.param((10, 10, 0, 5), id="no-width"),
        pytest.param((10, 10, 5, -1), id="negative-height"),
        pytest.param((10, float("nan"), 50, 50), id="nan"),
        pytest.param((10, 10, float("inf"), 50), id="infinite"),
    ],
)
def test_a_box_that_is_not_clipped_must_show_something_of_the_image(box: Box) -> None:
    with pytest.raises(DatasetError, match="640×480"):
        box_to_center_scale(box, (640, 480), (192, 256), clip=False)


@settings(deadline=None)
@given(centers, extents, extents, sizes)
def test_the_crop_is_the_three_point_transform_of_the_reference(
    center: Point, scale_w: float, scale_h: float, size: Size
) -> None:
    """Centre, a point above it, and the corner that completes the right angle, as Simple Baselines picks them."""
    width, height = size
    source_width = scale_w * 200
    source = np.array(
        [
            center,
            (center[0], center[1] - source_width / 2),
            (center[0] - source_width / 2, center[1] - source_width / 2),
        ]
    )
    target = np.array([(width / 2, height / 2), (width / 2, height / 2 - width / 2), (0, height / 2 - width / 2)])
    shifted = (source - source[0]).astype(np.float32)  # float32 is all that OpenCV takes: keep the numbers small
    expected = cv2.getAffineTransform(shifted, target.astype(np.float32))
    expected[:, 2] -= expected[:, :2] @ source[0]
    assert_allclose(crop_matrix(center, (scale_w, scale_h), size), expected, rtol=1e-3, atol=1e-3 * width / scale_w)


@given(centers, extents, sizes, st.lists(centers, min_size=1, max_size=5))
def test_the_inverse_takes_points_back(center: Point, scale: float, size: Size, points: list[Point]) -> None:
    there = transform_points(points, crop_matrix(center, (scale, scale), size))
    back = transform_points(there, inverse_crop_matrix(center, (scale, scale), size))
    assert_allclose(back, points, atol=1e-6)


def test_the_center_lands_in_the_middle() -> None:
    assert_allclose(transform_points([[40, 70]], crop_matrix((40, 70), (1.0, 1.5), (48, 64))), [[24, 32]])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), sizes, st.sampled_from(["uniform", "negative", "coarse"]))
def test_decoding_equals_the_protocol_joint_by_joint(seed: int, size: Size, kind: str) -> None:
    rng = np.random.default_rng(seed)
    width, height = size
    heatmaps = rng.uniform(-1, 1, (3, 4, height, width)).astype(np.float32)
    if kind == "negative":
        heatmaps = heatmaps - 1
    elif kind == "coarse":  # ties of the maximum and of its neighbours
        heatmaps = np.round(heatmaps)
    centers, scales = rng.uniform(0, 600, (3, 2)), rng.uniform(0.1, 3, (3, 2))
    keypoints, scores = decode_heatmaps(heatmaps, centers, scales)
    expected_keypoints, expected_scores = decode_slowly(heatmaps, centers, scales)
    assert_allclose(keypoints, expected_keypoints, rtol=1e-5, atol=1e-3)
    assert_array_equal(scores, expected_scores.astype(np.float32))
    assert keypoints.dtype == scores.dtype == np.float32


@pytest.mark.parametrize(
    ("peak", "expected"),
    [
        pytest.param((1, 8), (1, 8), id="x-1-stays"),
        pytest.param((2, 8), (2.25, 8.25), id="x-2-moves"),
        pytest.param((14, 8), (14.25, 8.25), id="x-W-2-moves"),
        pytest.param((15, 8), (15, 8), id="x-last-stays"),
        pytest.param((8, 1), (8, 1), id="y-1-stays"),
        pytest.param((8, 2), (8.25, 2.25), id="y-2-moves"),
        pytest.param((8, 18), (8.25, 18.25), id="y-H-2-moves"),
        pytest.param((8, 19), (8, 19), id="y-last-stays"),
    ],
)
def test_the_quarter_shift_stops_at_the_border(peak: Size, expected: Point) -> None:
    heatmap = np.zeros((1, 1, 20, 16), dtype=np.float32)
    x, y = peak
    heatmap[0, 0, y, min(x + 1, 15)] = 0.5
    heatmap[0, 0, min(y + 1, 19), x] = 0.5
    heatmap[0, 0, y, x] = 1
    points, scores = find_peaks(heatmap)
    assert_allclose(points[0, 0], expected)
    assert scores[0, 0] == 1


@pytest.mark.parametrize("value", [0.0, -0.5])
def test_a_heatmap_without_a_positive_value_gives_its_origin_in_the_image(value: float) -> None:
    heatmap = np.full((1, 1, 64, 48), value, dtype=np.float32)
    keypoints, scores = decode_heatmaps(heatmap, [[100, 200]], [[1.5, 2.0]])
    factor = 1.5 * 200 / 48
    assert_allclose(keypoints[0, 0], (100 - 24 * factor, 200 - 32 * factor))
    assert scores[0, 0] == np.float32(value)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from([(48, 64), (64, 64), (24, 32)]), st.sampled_from([1.0, 2.0, 3.0]))
def test_decoding_gives_back_what_was_encoded(data: st.DataObject, size: Size, sigma: float) -> None:
    width, height = size
    point = st.tuples(st.floats(2, width - 2.51), st.floats(2, height - 2.51))
    in_heatmap = np.array(data.draw(st.lists(st.lists(point, min_size=2, max_size=2), min_size=1, max_size=3)))
    count = len(in_heatmap)
    middle = np.array(data.draw(st.lists(centers, min_size=count, max_size=count)))
    scale = np.array(data.draw(st.lists(st.tuples(extents, extents), min_size=count, max_size=count)))
    targets, weights = encode_heatmaps(in_heatmap, np.ones((count, 2)), size, sigma)
    keypoints, scores = decode_heatmaps(targets, middle, scale)
    assert weights.min() == 1
    assert scores.min() > 0.75
    for n in range(count):
        expected = transform_points(in_heatmap[n], inverse_crop_matrix(middle[n], scale[n], size))
        pixel = scale[n][0] * 200 / width  # of the heatmap, in image pixels
        assert_allclose(keypoints[n], expected, atol=0.26 * pixel + 1e-3)


@pytest.mark.parametrize(
    ("point", "visible", "weight"),
    [
        pytest.param((5, 6), 2, 1, id="visible"),
        pytest.param((5, 6), 1, 1, id="hidden-but-labelled"),
        pytest.param((5, 6), 0, 0, id="not-labelled"),
        pytest.param((-0.4, 0), 2, 1, id="nearest-pixel-is-the-first"),
        pytest.param((-0.6, 0), 2, 0, id="left-of-the-map"),
        pytest.param((15.4, 19.4), 2, 1, id="nearest-pixel-is-the-last"),
        pytest.param((15.6, 5), 2, 0, id="right-of-the-map"),
        pytest.param((5, 19.6), 2, 0, id="below-the-map"),
    ],
)
def test_only_labelled_joints_on_the_map_are_drawn(point: Point, visible: int, weight: int) -> None:
    targets, weights = encode_heatmaps([[point]], [[visible]], (16, 20), 2.0)
    assert targets.shape == (1, 1, 20, 16)
    assert targets.dtype == weights.dtype == np.float32
    assert weights[0, 0] == weight
    assert (targets.max() > 0) == bool(weight)


def test_a_target_is_a_gaussian_around_the_joint() -> None:
    targets, _ = encode_heatmaps([[(5.25, 6.5)]], [[2]], (16, 20), 2.0)
    assert_allclose(targets[0, 0, 9, 7], np.exp(-(1.75**2 + 2.5**2) / 8), rtol=1e-6)


@pytest.mark.parametrize(
    ("keypoints", "scores"),
    [
        pytest.param(np.zeros((2, 17), np.float32), np.zeros((2, 17), np.float32), id="no-coordinates"),
        pytest.param(np.zeros((2, 17, 3), np.float32), np.zeros((2, 17), np.float32), id="three-coordinates"),
        pytest.param(np.zeros((2, 17, 2), np.float32), np.zeros((2, 16), np.float32), id="a-score-is-missing"),
        pytest.param(np.zeros((2, 17, 2)), np.zeros((2, 17), np.float32), id="float64"),
    ],
)
def test_poses_check_their_shapes(keypoints: np.ndarray, scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be"):
        Poses(keypoints, scores)


def test_poses_count_persons() -> None:
    assert len(Poses(np.zeros((2, 17, 2), np.float32), np.zeros((2, 17), np.float32))) == 2


@pytest.mark.parametrize(
    ("shape", "centers"),
    [pytest.param((17, 64, 48), (1, 2), id="no-batch"), pytest.param((2, 17, 64, 48), (1, 2), id="too-few-centers")],
)
def test_decoding_checks_shapes(shape: tuple[int, ...], centers: Size) -> None:
    with pytest.raises(ValueError, match="must be"):
        decode_heatmaps(np.zeros(shape, np.float32), np.zeros(centers), np.zeros(centers))


def test_the_codec_needs_numpy_alone() -> None:
    """AWS Lambda ships this module without OpenCV, SciPy or torch."""
    program = (
        "import sys; before = set(sys.modules); import numpy; import hpe_tasks.pose.codecs; "
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before} & "
        "{'cv2', 'scipy', 'torch', 'pydantic', 'onnxruntime', 'PIL', 'pycocotools'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
