from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hpe_tasks.errors import CheckpointError
from hpe_tasks.pose.codecs import CODECS, crop_codec
from hpe_tasks.pose.codecs.codec import FileOutputs
from hpe_tasks.pose.crops import box_to_center_scale, crop_matrix, transform_points
from hpe_tasks.pose.skeletons import COCO17
from support.dot_pictures import CONFIG, ONE, TWO, colour_network, measure, write_dataset

SIMCC = crop_codec("simcc")
INPUT = (192, 256)


def decode_plainly(
    simcc_x: np.ndarray, simcc_y: np.ndarray, center: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One person, joint by joint, with the formulas of mmpose: bins by the split ratio, then back through the crop."""
    ratio = simcc_x.shape[1] / INPUT[0]
    points, scores = [], []
    for x, y in zip(simcc_x, simcc_y, strict=True):
        score = min(x.max(), y.max())
        place = np.array([x.argmax(), y.argmax()]) if score > 0 else np.array([-1, -1])
        points.append(place / ratio / INPUT * (scale * 200) + center - 0.5 * scale * 200)
        scores.append(score)
    return np.array(points), np.array(scores)


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_joints_are_read_as_mmpose_reads_them(ratio: int) -> None:
    rng = np.random.default_rng(ratio)
    outputs = {
        name: rng.normal(-2.2, 1, (3, 17, ratio * side)).astype(np.float32)
        for name, side in zip(("simcc_x", "simcc_y"), INPUT, strict=True)
    }
    boxes = ([10, 20, 80, 200], [300, 5, 120, 60], [0, 0, 9, 9])
    regions = [box_to_center_scale(box, (640, 480), INPUT) for box in boxes]
    centers, scales = (np.stack(one) for one in zip(*regions, strict=True))
    points, scores = SIMCC.decode(outputs, centers, scales)
    assert points.dtype == scores.dtype == np.float32
    for i in range(3):
        expected = decode_plainly(outputs["simcc_x"][i], outputs["simcc_y"][i], centers[i], scales[i])
        assert_allclose(points[i], expected[0], atol=1e-3)
        assert_array_equal(scores[i], expected[1])


def test_a_joint_whose_score_is_not_positive_is_not_found() -> None:
    outputs = {"simcc_x": np.full((1, 3, 384), -1, np.float32), "simcc_y": np.full((1, 3, 512), -1, np.float32)}
    outputs["simcc_x"][0, :2, 100] = 0.7, 1.4
    outputs["simcc_y"][0, 1, 30] = 1.2
    points, scores = SIMCC.decode(outputs, [[96, 128]], [[192 / 200, 256 / 200]])
    # Scores are not limited to 1; the smaller of the two counts.
    assert_allclose(scores, [[-1, 1.2, -1]])
    assert_allclose(points, [[(-0.5, -0.5), (50, 15), (-0.5, -0.5)]])


def test_what_is_not_finite_shows_in_the_score() -> None:
    outputs = {"simcc_x": np.ones((1, 2, 384), np.float32), "simcc_y": np.ones((1, 2, 512), np.float32)}
    outputs["simcc_y"][0, 1, 7] = np.nan
    assert_array_equal(np.isnan(SIMCC.decode(outputs, [[0, 0]], [[1, 1]])[1]), [[False, True]])


# Encoding ----------------------------------------------------------------------------------------------------------


def test_targets_are_those_of_rtmpose() -> None:
    points = np.array([[[60.2, 100.0]]])
    targets, weights = SIMCC.encode(points, np.ones((1, 1)), INPUT, None)
    assert {name: array.shape for name, array in targets.items()} == {
        "simcc_x": (1, 1, 384),
        "simcc_y": (1, 1, 512),
    }
    for name, middle, sigma in (("simcc_x", 120, 4.9), ("simcc_y", 200, 5.66)):
        expected = np.exp(-((np.arange(targets[name].shape[2]) - middle) ** 2) / (2 * sigma**2))
        assert targets[name].dtype == np.float32
        assert_allclose(targets[name][0, 0], expected, atol=1e-3)
        assert_array_equal(weights[name], [[1]])


@pytest.mark.parametrize("sigma", [None, 3.0])
def test_joints_come_back_within_half_a_bin(sigma: float | None) -> None:
    rng = np.random.default_rng(0)
    center, scale = box_to_center_scale([100, 50, 90, 210], (640, 480), INPUT)
    inside = rng.uniform((0, 0), (191, 255), (1, 17, 2))
    targets, weights = SIMCC.encode(inside, np.ones((1, 17)), INPUT, sigma)
    points, scores = SIMCC.decode(targets, center[None], scale[None])
    assert weights["simcc_x"].all()
    assert_allclose(scores, 1)
    back = transform_points(points, crop_matrix(center, scale, INPUT))
    assert np.abs(back - inside).max() <= 0.25 + 1e-4


@pytest.mark.parametrize(
    ("point", "visible", "weight"),
    [
        pytest.param((10, 10), 2, 1, id="labelled"),
        pytest.param((10, 10), 1, 1, id="hidden"),
        pytest.param((10, 10), 0, 0, id="not-labelled"),
        pytest.param((-5, 10), 2, 1, id="near-the-border"),
        pytest.param((-20, 10), 2, 0, id="left"),
        pytest.param((10, 300), 2, 0, id="below"),
    ],
)
def test_only_joints_that_show_are_learnt(point: tuple[int, int], visible: int, weight: int) -> None:
    targets, weights = SIMCC.encode([[point]], [[visible]], INPUT, None)
    assert {name: array.item() for name, array in weights.items()} == {"simcc_x": weight, "simcc_y": weight}
    assert all(array.any() == bool(weight) for array in targets.values())


def test_mirrored_outputs_are_turned_back() -> None:
    """Bin b of x becomes the last but b, as in mmpose; left and right joints swap."""
    rng = np.random.default_rng(0)
    outputs = {"simcc_x": rng.random((2, 17, 384), np.float32), "simcc_y": rng.random((2, 17, 512), np.float32)}
    back = SIMCC.flip_back(outputs, COCO17.flip_pairs)
    left, right = COCO17.joints.index("left_wrist"), COCO17.joints.index("right_wrist")
    assert_array_equal(back["simcc_x"][:, left], outputs["simcc_x"][:, right, ::-1])
    assert_array_equal(back["simcc_y"][:, right], outputs["simcc_y"][:, left])
    assert_array_equal(back["simcc_x"][:, 0], outputs["simcc_x"][:, 0, ::-1])
    twice = SIMCC.flip_back(back, COCO17.flip_pairs)
    mean = SIMCC.averaged(outputs, back, COCO17.flip_pairs)
    for name, array in outputs.items():
        assert_array_equal(twice[name], array)
        assert_allclose(mean[name], array)


# Outputs of a file ---------------------------------------------------------------------------------------------------

X, Y = ("n", 17, 384), ("n", 17, 512)


@pytest.mark.parametrize(
    ("shapes", "found"),
    [
        pytest.param({"simcc_x": X, "simcc_y": Y}, ("simcc_x", "simcc_y"), id="by-name"),
        pytest.param({"simcc_y": Y, "simcc_x": X}, ("simcc_x", "simcc_y"), id="by-name, other order"),
        pytest.param({"simcc_x": (), "other": X, "simcc_y": ()}, ("simcc_x", "simcc_y"), id="names without shapes"),
        pytest.param({"output": X, "1234": Y}, ("output", "1234"), id="in their order"),
        pytest.param({"features": ("n", 256, 8, 6), "a": X, "b": Y}, ("a", "b"), id="beside others"),
        pytest.param({"a": ("n", None, "bins"), "b": (1, 17, None)}, ("a", "b"), id="free"),
    ],
)
def test_outputs_are_found(shapes: dict[str, tuple], found: tuple[str, str]) -> None:
    file = FileOutputs("m.onnx", shapes, SIMCC.outputs(17, INPUT), False, None)
    assert SIMCC.find(file) == dict(zip(("simcc_x", "simcc_y"), found, strict=True))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        pytest.param({"heatmaps": ("n", 17, 64, 48)}, r"it has: heatmaps \(n×17×64×48\)", id="heatmaps"),
        pytest.param({"simcc_x": X, "y": Y}, "no outputs 'simcc_x' and 'simcc_y'", id="one-name"),
        pytest.param({"a": X, "b": Y, "c": X}, "not two others", id="three"),
        pytest.param({"a": ("n", 16, 384), "b": ("n", 16, 512)}, r"a \(n×16×384\)", id="joints"),
    ],
)
def test_a_file_without_these_outputs_is_refused(shapes: dict[str, tuple], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        SIMCC.find(FileOutputs("m.onnx", shapes, SIMCC.outputs(17, INPUT), False, None))
    assert "simcc_x" in caught.value.hint


@pytest.mark.parametrize(
    ("bins", "fits"),
    [
        pytest.param((384, 512), True, id="two"),
        pytest.param((192, 256), True, id="one"),
        pytest.param((288, 384), True, id="one and a half"),
        pytest.param((None, 512), True, id="one is free"),
        pytest.param(("bins", "bins"), True, id="both are free"),
        pytest.param((384, 384), False, id="alike"),
        pytest.param((512, 384), False, id="swapped"),
        pytest.param((383, 512), False, id="one too few"),
        pytest.param((96, 128), False, id="half"),
        pytest.param((None, 128), False, id="half, one is free"),
    ],
)
def test_both_axes_have_the_same_number_of_bins_for_a_pixel(bins: tuple, fits: bool) -> None:
    fault = SIMCC.fault({"simcc_x": ("n", 17, bins[0]), "simcc_y": ("n", 17, bins[1])}, INPUT)
    assert (fault is None) == fits
    if fault is not None:
        assert "192 wide and 256 high" in fault
        assert "384 and 512" in fault


# An evaluation --------------------------------------------------------------------------------------------------------


def colours_by_axis(images: np.ndarray) -> dict[str, np.ndarray]:
    """The joints that `colour_network` finds, as one vector for each axis with two bins to a pixel."""
    maps = colour_network(images)
    axes = {"simcc_x": maps.max(axis=2), "simcc_y": maps.max(axis=3)}
    bins = {"simcc_x": 2 * images.shape[3], "simcc_y": 2 * images.shape[2]}
    grown = {}
    for name, values in axes.items():
        at = np.arange(bins[name]) / 8
        cells = np.arange(values.shape[2])
        rows = values.reshape(-1, values.shape[2])
        between = np.stack([np.interp(at, cells, row) for row in rows])
        grown[name] = between.reshape(*values.shape[:2], -1).astype(np.float32)
    return grown


def in_mirrors_as_well(images: np.ndarray, calls: list[int]) -> dict[str, np.ndarray]:
    """Sees every second batch, the mirrored one, as what it is the mirror image of."""
    calls.append(len(images))
    if len(calls) % 2:
        return colours_by_axis(images)
    return SIMCC.flip_back(colours_by_axis(images[..., ::-1]), COCO17.flip_pairs)


@pytest.mark.parametrize("flip", [False, True], ids=["plain", "flip"])
def test_people_are_measured_by_vectors(flip: bool, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"codec": "simcc"})
    dataset = write_dataset(tmp_path, [ONE], [ONE, TWO])
    network = partial(in_mirrors_as_well, calls=[]) if flip else colours_by_axis
    report, rows = measure(dataset, network, config, flip_test=flip)
    assert report.fingerprint.decoder.startswith(f"{CODECS['simcc'].decoder}; person score: ")
    assert report.fingerprint.flip_test == flip
    assert report.stats.ap == pytest.approx(1.0)
    assert len(rows) == 3


def test_what_a_network_gives_is_held_against_the_codec(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"codec": "simcc"})
    dataset = write_dataset(tmp_path, [ONE])

    def short(images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = colours_by_axis(images)
        return {**outputs, "simcc_y": outputs["simcc_y"][:, :, :-2]}

    with pytest.raises(CheckpointError, match="simcc_x has 384 and simcc_y 510 bins"):
        measure(dataset, short, config)
    with pytest.raises(CheckpointError, match="'simcc_y' is missing"):
        measure(dataset, lambda images: {"simcc_x": colours_by_axis(images)["simcc_x"]}, config)
    with pytest.raises(CheckpointError, match=r"outputs of 1\.png hold NaN"):
        measure(dataset, lambda images: {name: v * np.nan for name, v in colours_by_axis(images).items()}, config)
