"""Joints of the same crops, found by two forms of a network: how far apart, in pixels of its input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.evaluation.crop_joints import CropJoints, pixel_parity, read_crop_joints
from hpe_tasks.pose.codecs import CODECS, crop_codec
from hpe_tasks.pose.crops import box_to_center_scale, crop_matrix
from hpe_tasks.records.comparison import SHIFTS_PX
from hpe_tasks.records.evaluation import EvaluationReport
from support.dot_pictures import CONFIG, HEIGHT, ONE, TWO, WIDTH, colour_network, measure, write_dataset

Network = Callable[[np.ndarray], np.ndarray]


def kept(report: EvaluationReport) -> CropJoints:
    assert report.crop_joints is not None
    return read_crop_joints(Path(report.crop_joints.uri.removeprefix("file://")).read_bytes())


@pytest.fixture
def found(tmp_path: Path) -> Callable[[Network], CropJoints]:
    dataset: CocoDataset = write_dataset(tmp_path, [ONE, TWO], [TWO])
    return lambda network: kept(measure(dataset, network)[0])


def test_joints_are_kept_in_pixels_of_the_input(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, [ONE, TWO], [TWO])
    joints = kept(measure(dataset)[0])
    assert joints.crops.tolist() == ["1.png#0", "1.png#1", "2.png#0"]
    assert (joints.joints.shape, joints.scores.shape, joints.cells.shape) == ((3, 17, 2), (3, 17), (3, 17))
    for row, (person, truth) in enumerate(zip(dataset.all_persons(), [ONE, TWO, TWO], strict=True)):
        matrix = crop_matrix(*box_to_center_scale(person.box, (WIDTH, HEIGHT), CONFIG.input_size), CONFIG.input_size)
        in_input = truth[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        middle = np.array(CONFIG.input_size) / 2
        # The dots are found to half a cell of the heatmap.
        assert np.abs(joints.joints[row] + middle - in_input).max() < 4
        cells = np.stack([joints.cells[row] % 48, joints.cells[row] // 48], axis=-1)
        assert np.abs(cells * 4 - in_input).max() < 6


def test_maps_that_are_moved_by_a_cell_are_four_pixels_away(found: Callable[[Network], CropJoints]) -> None:
    reference, moved = found(colour_network), found(lambda images: np.roll(colour_network(images), 1, axis=3))
    same, shifted, whole = pixel_parity([("fp32", reference), ("quantsim", reference), ("onnxruntime", moved)])
    assert [parity.between for parity in (same, shifted, whole)] == [
        ("fp32", "quantsim"),
        ("quantsim", "onnxruntime"),
        ("fp32", "onnxruntime"),
    ]
    assert same.every.same_cell == 1.0
    assert same.every.within == (1.0,) * len(SHIFTS_PX)
    assert (same.crops, same.every.joints) == (3, 3 * 17)
    assert shifted.every == whole.every
    assert shifted.every.same_cell == 0.0
    assert shifted.every.median_px == pytest.approx(4.0, abs=1e-3)
    assert shifted.every.p99_px == pytest.approx(4.0, abs=1e-3)
    assert dict(zip(SHIFTS_PX, shifted.every.within, strict=True))[2.0] == 0.0
    assert dict(zip(SHIFTS_PX, shifted.every.within, strict=True))[4.0] == 1.0


def test_joints_that_the_reference_is_not_sure_of_are_counted_apart(found: Callable[[Network], CropJoints]) -> None:
    def unsure(images: np.ndarray, shift: int) -> np.ndarray:
        maps = colour_network(images)
        maps[:, 9:11] = np.roll(maps[:, 9:11] * 0.1, shift, axis=2)
        return maps

    before, after = found(partial(unsure, shift=0)), found(partial(unsure, shift=3))
    (parity,) = pixel_parity([("fp32", before), ("onnxruntime", after)])
    assert parity.sure is not None
    assert (parity.sure.joints, parity.sure.largest_px, parity.sure.same_cell) == (3 * 15, 0.0, 1.0)
    assert parity.every.joints == 3 * 17
    assert parity.every.largest_px == pytest.approx(12.0, abs=1e-3)
    assert parity.every.same_cell == pytest.approx(15 / 17)


def test_crops_that_only_one_has_are_left_out(found: Callable[[Network], CropJoints]) -> None:
    joints = found(colour_network)
    first = CropJoints(joints.crops[:1], joints.joints[:1], joints.scores[:1], joints.cells[:1])
    last = CropJoints(joints.crops[2:], joints.joints[2:], joints.scores[2:], joints.cells[2:])
    (parity,) = pixel_parity([("fp32", joints), ("quantsim", first)])
    assert parity.crops == 1
    assert pixel_parity([("fp32", first), ("quantsim", last)]) == ()
    assert pixel_parity([("fp32", joints)]) == ()
    assert pixel_parity([]) == ()


def test_the_best_cell_of_an_output_is_counted_along_its_rows() -> None:
    maps = np.zeros((1, 2, 4, 3), np.float32)
    maps[0, 0, 2, 1] = maps[0, 1, 3, 2] = 1
    assert crop_codec("heatmap").best_cells({"heatmaps": maps}).tolist() == [[7, 11]]
    vectors = {
        "simcc_x": np.eye(6, dtype=np.float32)[None, [1, 5]],
        "simcc_y": np.eye(8, dtype=np.float32)[None, [2, 7]],
    }
    assert crop_codec("simcc").best_cells(vectors).tolist() == [[13, 47]]
    assert {"heatmap", "simcc"} == {name for name, codec in CODECS.items() if not codec.whole_images}
