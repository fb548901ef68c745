"""MPII in the layout of Simple Baselines: what is read, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpe_tasks.data.mpii import (
    MpiiPerson,
    crop_region,
    load_mpii,
    load_truth,
    to_file_pixels,
)
from hpe_tasks.errors import DatasetError
from hpe_tasks.metrics.pckh import pckh_stats
from hpe_tasks.pose.crops import crop_matrix, transform_points
from support.mpii_factory import NAMES, PERSONS, edited_mat, edited_rows, people, write_mpii


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mpii(tmp_path / "mpii")


def test_persons_and_truth_are_those_of_the_files(root: Path) -> None:
    dataset = load_mpii(root, "valid")
    truth = load_truth(dataset)
    joints, visible, boxes = people()
    assert [person.index for person in dataset.persons] == list(range(PERSONS))
    assert dataset.images == tuple(f"1{name}" for name in NAMES)
    assert dataset.image_path(dataset.persons[1]).is_file()
    for person in dataset.persons:
        assert np.array_equal(person.joints, joints[person.index])
        assert np.array_equal(person.visible, visible[person.index])
    assert np.array_equal(truth.joints, joints)
    assert np.array_equal(truth.visible, visible)
    assert np.array_equal(truth.head_boxes, boxes)


def test_the_crop_is_that_of_simple_baselines() -> None:
    """By hand: y 200 + 15·2 = 230, then both less one; scale 2·1.25."""
    person = MpiiPerson(0, "a.jpg", (100.0, 200.0), 2.0, np.zeros((16, 2)), np.ones(16, dtype=bool))
    center, scale = crop_region(person)
    assert center.tolist() == [99.0, 229.0]
    assert scale.tolist() == [2.5, 2.5]
    # 500 pixels of the image on 256 pixels of the crop, the centre in its middle.
    corners = transform_points([[99, 229], [99 - 250, 229 - 250]], crop_matrix(center, scale, (256, 256)))
    assert np.allclose(corners, [[128, 128], [0, 0]])


def test_predictions_count_from_one_in_the_files() -> None:
    assert to_file_pixels(np.zeros((1, 1, 2), dtype=np.float32)).tolist() == [[[1.0, 1.0]]]


def test_a_subset_keeps_the_rows_of_the_truth(root: Path) -> None:
    dataset = load_mpii(root, "valid").subset([f"1{NAMES[0]}", f"1{NAMES[2]}"])
    assert [person.index for person in dataset.persons] == [0, 1, 3]
    assert np.array_equal(load_truth(dataset).joints, people()[0][[0, 1, 3]])
    with pytest.raises(DatasetError, match=r"no person in the image x\.jpg"):
        dataset.subset(["x.jpg"])


def test_one_person_alone_is_read_although_matlab_drops_the_dimension(root: Path) -> None:
    with edited_rows(root) as rows:
        del rows[1:]
    with edited_mat(root) as mat:
        mat["pos_gt_src"] = mat["pos_gt_src"][..., 0]
        mat["headboxes_src"] = mat["headboxes_src"][..., 0]
        mat["jnt_missing"] = mat["jnt_missing"][:, :1]
    assert load_truth(load_mpii(root, "valid")).joints.shape == (1, 16, 2)


Edit = Callable[[dict[str, Any]], Any]


def drop(name: str) -> Edit:
    return lambda mat: mat.pop(name)


def change(name: str, function: Callable[[np.ndarray], np.ndarray]) -> Edit:
    return lambda mat: mat.update({name: function(mat[name])})


def with_value(index: tuple, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def function(array: np.ndarray) -> np.ndarray:
        changed = array.astype(np.float64)
        changed[index] = value
        return changed

    return function


def without_size(boxes: np.ndarray) -> np.ndarray:
    changed = boxes.copy()
    changed[1, :, 1] = changed[0, :, 1]
    return changed


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        *(
            pytest.param(drop(name), rf"gt_valid\.mat has no field '{name}'; it holds ", id=f"no-{name}")
            for name in ("dataset_joints", "jnt_missing", "pos_gt_src", "headboxes_src")
        ),
        pytest.param(change("pos_gt_src", lambda a: a[:15]), r"pos_gt_src is 15×2×4, where 16×2×4", id="15-joints"),
        pytest.param(change("pos_gt_src", lambda a: a.transpose(2, 0, 1)), r"pos_gt_src is 4×16×2", id="transposed"),
        pytest.param(change("headboxes_src", lambda a: a[..., :3]), r"headboxes_src is 2×2×3", id="fewer-heads"),
        pytest.param(change("jnt_missing", lambda a: a[:, :0]), r"jnt_missing is 16×0", id="nobody"),
        pytest.param(change("jnt_missing", lambda a: a * 7), "jnt_missing holds other values than 0 and 1", id="flags"),
        pytest.param(
            change("dataset_joints", lambda a: a[:, ::-1]), "dataset_joints names lwri, .*order is rank", id="order"
        ),
        pytest.param(
            change("dataset_joints", lambda a: np.ones((1, 16))), "is not a list of names", id="joints-numbers"
        ),
        pytest.param(change("pos_gt_src", lambda a: np.array(["x"])), "pos_gt_src holds no numbers", id="text"),
        pytest.param(
            change("pos_gt_src", with_value((3, 0, 2), np.nan)), "of person number 2 is not finite", id="nan-joint"
        ),
        pytest.param(
            change("headboxes_src", without_size),
            "headboxes_src of person number 1 has no size",
            id="head-without-size",
        ),
        pytest.param(
            lambda mat: mat.update({k: v[..., :3] for k, v in mat.items() if k != "dataset_joints"}),
            r"gt_valid\.mat holds 3 persons, but valid\.json lists 4",
            id="another-count",
        ),
        pytest.param(
            change("pos_gt_src", lambda a: a[..., ::-1]),
            r"disagree about 4 of 4 persons",
            id="another-order-of-persons",
        ),
        pytest.param(
            change("pos_gt_src", lambda a: a - 1), r"valid\.mat counts pixels from 0.*of the other", id="joints-from-0"
        ),
        pytest.param(
            lambda mat: (change("pos_gt_src", lambda a: a - 1)(mat), change("headboxes_src", lambda a: a - 1)(mat)),
            r"gt_valid\.mat counts pixels from 0.*joints are those of the other file",
            id="mat-from-0",
        ),
        pytest.param(
            change("headboxes_src", lambda a: a - 1), r"from 0.*headboxes_src is less by one pixel", id="heads-from-0"
        ),
    ],
)
def test_a_truth_file_that_does_not_fit_is_refused(root: Path, edit: Edit, message: str) -> None:
    with edited_mat(root) as mat:
        edit(mat)
    with pytest.raises(DatasetError, match=message):
        load_truth(load_mpii(root, "valid"))


def test_annotations_that_count_from_0_beside_a_truth_that_does_not(root: Path) -> None:
    with edited_rows(root) as rows:
        for row in rows:
            row["joints"] = [[x - 1, y - 1] for x, y in row["joints"]]
    with pytest.raises(DatasetError, match=r"valid\.json counts pixels from 0, where MPII counts from 1"):
        load_truth(load_mpii(root, "valid"))


def test_joints_and_truth_from_0_beside_original_head_boxes(root: Path) -> None:
    with edited_rows(root) as rows:
        for row in rows:
            row["joints"] = [[x - 1, y - 1] for x, y in row["joints"]]
    with edited_mat(root) as mat:
        mat["pos_gt_src"] -= 1
    with pytest.raises(DatasetError, match="pos_gt_src is less by one pixel than the file's other pixels"):
        load_truth(load_mpii(root, "valid"))


@pytest.mark.parametrize(
    ("value", "warned"),
    [
        pytest.param([0.0], True, id="at-0"),
        pytest.param([0.0, -3.0], False, id="outside-too"),
        pytest.param([1.0], False, id="at-1"),
    ],
)
def test_joints_at_pixel_0_are_suspicious_unless_some_lie_outside(
    root: Path, caplog: pytest.LogCaptureFixture, value: list[float], warned: bool
) -> None:
    with edited_rows(root) as rows:
        for i, x in enumerate(value):
            rows[i]["joints"][3][0] = x
    with caplog.at_level(logging.WARNING):
        load_mpii(root, "valid")
    assert ("may count pixels from 0" in caplog.text) is warned


def corrected(rows: list[dict[str, Any]]) -> None:
    for row in rows[2:]:
        row["joints"][2][0] += 40


def relabelled(rows: list[dict[str, Any]]) -> None:
    for row in rows[2:]:
        row["joints_vis"][2] = 0


def rounded(rows: list[dict[str, Any]]) -> None:
    for row in rows[2:]:
        row["joints"] = [[x - 0.5, y + 0.5] for x, y in row["joints"]]


@pytest.mark.parametrize("edit", [corrected, relabelled, rounded])
def test_records_that_differ_from_the_truth_are_logged_and_the_truth_is_used(
    root: Path, caplog: pytest.LogCaptureFixture, edit: Callable[[list[dict[str, Any]]], None]
) -> None:
    with edited_rows(root) as rows:
        edit(rows)
    with caplog.at_level(logging.WARNING):
        truth = load_truth(load_mpii(root, "valid"))
    assert "disagree about 2 of 4 persons, first about number 2" in caplog.text
    assert "The .mat file is used." in caplog.text
    joints, visible, _ = people()
    assert np.array_equal(truth.joints, joints)
    assert np.array_equal(truth.visible, visible)


def test_other_labels_for_everybody_are_logged(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with edited_rows(root) as rows:
        for row in rows:
            row["joints_vis"][2] = 0
    with caplog.at_level(logging.WARNING):
        assert load_truth(load_mpii(root, "valid")).visible[:, 2].all()
    assert "disagree about 4 of 4 persons" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"image": "../../etc/passwd"}, "image is not a file name inside images/", id="path"),
        pytest.param({"center": [1.0]}, "center is not two numbers", id="center"),
        pytest.param({"center": [float("nan"), 1.0]}, "center is not two numbers", id="nan-center"),
        pytest.param({"scale": 0}, "scale is not a positive number", id="scale-0"),
        pytest.param({"scale": "big"}, "scale is not a positive number", id="scale-text"),
        pytest.param({"joints": [[1.0, 2.0]] * 15}, "joints are not 16 pairs of numbers", id="15-joints"),
        pytest.param({"joints": [[1.0, 2.0, 1.0]] * 16}, "joints are not 16 pairs", id="triples"),
        pytest.param({"joints_vis": [2] * 16}, "16 numbers that are 0 or 1", id="coco-visibility"),
        pytest.param({"joints_vis": None}, "16 numbers that are 0 or 1", id="null"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(root: Path, change: dict[str, Any], message: str) -> None:
    with edited_rows(root) as rows:
        rows[2] |= change
    with pytest.raises(DatasetError, match=rf"valid\.json: person number 2 cannot be read: .*{message}"):
        load_mpii(root, "valid")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "does not exist", id="missing"),
        pytest.param("[{", "is not JSON", id="cut-off"),
        pytest.param("{}", "not a list of persons", id="object"),
        pytest.param("[]", "lists no persons", id="empty"),
        pytest.param("[7]", "person number 0 cannot be read: it is not an object", id="numbers"),
        pytest.param('[{"image": "a.jpg"}]', "'center' is missing", id="field"),
    ],
)
def test_an_annotation_file_that_cannot_be_read_is_named(root: Path, content: str | None, message: str) -> None:
    path = root / "annot" / "valid.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(DatasetError, match=rf"valid\.json.*{message}"):
        load_mpii(root, "valid")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"not a matlab file at all" * 20, id="text"),
        *(pytest.param(lambda data, n=n: data[: len(data) * n // 8], id=f"cut-at-{n}-eighths") for n in range(1, 8)),
        pytest.param(lambda data: data[:200] + bytes(200) + data[400:], id="zeros-inside"),
    ],
)
def test_a_mat_file_that_is_broken_is_named(root: Path, content: Callable[[bytes], bytes]) -> None:
    path = root / "annot" / "gt_valid.mat"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(DatasetError, match=r"gt_valid\.mat"):
        load_truth(load_mpii(root, "valid"))


def test_a_missing_mat_file_is_named(root: Path) -> None:
    (root / "annot" / "gt_valid.mat").unlink()
    with pytest.raises(DatasetError, match=r"gt_valid\.mat does not exist"):
        load_truth(load_mpii(root, "valid"))


def test_real_annotations(test_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = load_mpii(test_data / "mpii-mini", "valid")
    truth = load_truth(dataset)
    assert all(dataset.image_path(person).is_file() for person in dataset.persons)
    assert len(dataset.persons) == len(dataset.images) == 5
    assert truth.visible.sum() == 76
    assert caplog.text == ""
    assert np.abs(truth.joints - np.stack([p.joints for p in dataset.persons]))[truth.visible].max() < 1e-3
    stats = pckh_stats(truth.joints, truth.joints, truth.visible, truth.head_boxes)
    assert set(stats.model_dump(exclude={"num_joints"}).values()) == {100.0}
    assert stats.num_joints == 66
