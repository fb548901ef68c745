"""Great Expectations on small MPII data sets: whole ones pass, and every kind of damage is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.validation import validate_dataset
from hpe_tasks.data.validation.expectations import ValidationOutcome
from hpe_tasks.records.inputs import SplitCounts
from support.mpii_factory import HEIGHT, WIDTH, edited_mat, edited_rows, write_mpii

DIGEST = "d" * 64


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_mpii(tmp_path / "mpii")


def validate(root: Path, *, min_persons: int = 4) -> ValidationOutcome:
    config = DatasetConfig(source=str(root), kind="mpii", min_persons=min_persons)
    return validate_dataset(root, config, root.parent / "out", DIGEST)


def test_a_whole_data_set_has_no_problem(root: Path) -> None:
    outcome = validate(root)
    assert outcome.problems == ()
    assert outcome.checks_run == 13
    assert outcome.splits == tuple(
        SplitCounts(split=split, images=3, annotations=4, persons=4) for split in ("train", "valid")
    )
    text = outcome.data_docs.read_text()
    assert "All 13 expectations are met." in text
    assert DIGEST in text


def test_the_calibration_split_needs_no_truth(root: Path) -> None:
    (root / "annot" / "gt_train.mat").unlink()
    assert validate(root).problems == ()


def test_borders_counted_from_one_are_fine(root: Path) -> None:
    with edited_rows(root) as rows, edited_mat(root) as mat:
        for person, (joint, value) in enumerate([(1, [1, 1]), (2, [WIDTH, HEIGHT]), (3, [WIDTH + 0.9, 5])]):
            rows[person]["joints"][joint] = value
            mat["pos_gt_src"][joint, :, person] = value
    assert validate(root).problems == ()


def rows_with(index: int, **changes: object) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        with edited_rows(root) as rows:
            rows[index] |= changes

    return damage


def on_the_left_border(root: Path, joints: int) -> None:
    with edited_rows(root) as rows, edited_mat(root) as mat:
        for number in range(joints):
            joint, person = divmod(number, len(rows))
            rows[person]["joints"][joint][0] = mat["pos_gt_src"][joint, 0, person] = 1


def everything_from_zero(root: Path, on_border: int = 20) -> None:
    """All three records of the pixels, with joints on the border: only the images can tell."""
    on_the_left_border(root, on_border + 1)  # The last person's first joint is not labelled.
    with edited_rows(root) as rows, edited_mat(root) as mat:
        for row in rows:
            row["joints"] = [[x - 1, y - 1] for x, y in row["joints"]]
        mat["pos_gt_src"] -= 1
        mat["headboxes_src"] -= 1


def joints_from_zero(root: Path) -> None:
    with edited_rows(root) as rows:
        for row in rows:
            row["joints"] = [[x - 1, y - 1] for x, y in row["joints"]]


def joint_outside(root: Path) -> None:
    with edited_rows(root, "train") as rows:
        rows[2]["joints"][4] = [WIDTH + 12.0, 4.0]


def truth_of_others(root: Path) -> None:
    with edited_mat(root) as mat:
        mat["pos_gt_src"] = mat["pos_gt_src"][..., ::-1]


def nobody(root: Path) -> None:
    for split in ("train", "valid"):
        (root / "annot" / f"{split}.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "check", "example"),
    [
        pytest.param(lambda r: shutil.rmtree(r / "images"), "layout_present", "images", id="no-images"),
        pytest.param(lambda r: (r / "annot/valid.json").unlink(), "layout_present", "annot/valid.json", id="no-json"),
        pytest.param(lambda r: (r / "annot/gt_valid.mat").unlink(), "layout_present", "gt_valid.mat", id="no-mat"),
        pytest.param(
            lambda r: (r / "annot/train.json").write_text("{"), "annotations_readable", "is not JSON", id="cut"
        ),
        pytest.param(
            lambda r: (r / "annot/gt_valid.mat").write_bytes(b"x" * 300), "annotations_readable", "no", id="no-matlab"
        ),
        pytest.param(truth_of_others, "annotations_readable", "disagree about 4 of 4 persons", id="truth-of-others"),
        pytest.param(joints_from_zero, "annotations_readable", "valid.json counts pixels from 0", id="json-from-0"),
        pytest.param(
            everything_from_zero, "pixels_count_from_one", "valid: 20 more coordinates at pixel 0", id="all-from-0"
        ),
        pytest.param(lambda r: (r / "images/1000001.jpg").unlink(), "images_exist", "valid: 1000001.jpg", id="image"),
        pytest.param(
            lambda r: (r / "images/1000001.jpg").write_bytes((r / "images/1000001.jpg").read_bytes()[:400]),
            "images_decode",
            "valid: 1000001.jpg: cannot be decoded",
            id="truncated-image",
        ),
        pytest.param(
            rows_with(1, image="../annot/valid.json"),
            "annotation_records_complete",
            "person 1 of valid (../annot/valid.json): image is not a file name inside images/",
            id="path",
        ),
        pytest.param(
            rows_with(3, scale=-1), "annotation_records_complete", "scale is not a positive number", id="scale"
        ),
        pytest.param(rows_with(0, joints=None), "annotation_records_complete", "16 pairs of numbers", id="joints"),
        pytest.param(
            joint_outside, "keypoints_inside_image", "person 2 of train (0000002.jpg): by 12 px", id="outside"
        ),
        pytest.param(rows_with(0, image="0000001.jpg"), "splits_disjoint", "train: 0000001.jpg", id="shared-name"),
        pytest.param(nobody, "persons_listed", "", id="nobody"),
        pytest.param(rows_with(2, joints_vis=[0] * 16), "enough_persons", "valid: 3 persons", id="few-persons"),
    ],
)
def test_damage_is_found_and_named(root: Path, damage: Callable[[Path], object], check: str, example: str) -> None:
    damage(root)
    problems = [problem for problem in validate(root).problems if problem.check == check]
    assert problems
    assert all(problem.count >= 1 and problem.message for problem in problems)
    named = [text for problem in problems for text in problem.examples]
    assert not example or any(example in text for text in named), named


@pytest.mark.parametrize(
    ("at_zero", "at_end", "stops"),
    [(1, 0, False), (19, 0, False), (20, 0, True), (29, 9, True), (30, 10, True), (31, 11, False), (3, 4, None)],
)
def test_a_few_more_joints_at_pixel_0_are_only_warned_of(
    root: Path, at_zero: int, at_end: int, stops: bool | None
) -> None:
    """Some joints are labelled a little outside their image: that is not a sign of another count."""
    with edited_rows(root, "train") as rows:
        for number in range(at_zero + at_end):
            joint, person = divmod(number, 3)  # All joints of the first three persons are labelled.
            rows[person]["joints"][joint][0] = 0.5 if number < at_zero else WIDTH
    outcome = validate(root)
    assert [p.check for p in outcome.problems] == ["pixels_count_from_one"] * (stops is True)
    assert [p.check for p in outcome.warnings] == ["pixels_count_from_one"] * (stops is not None)
    if stops is not None:
        assert outcome.warnings[0].examples == (
            f"train: {at_zero - at_end} more coordinates at pixel 0 than at the last pixel",
        )


def test_records_that_differ_from_the_truth_are_no_problem(root: Path) -> None:
    with edited_rows(root) as rows:
        for row in rows:
            row["joints_vis"][2] = 0
        rows[3]["joints"][7][0] += 30
    assert validate(root).problems == ()


def test_copy_of_an_evaluation_image_is_warned_of(root: Path) -> None:
    shutil.copy(root / "images" / "1000002.jpg", root / "images" / "0000002.jpg")
    outcome = validate(root)
    assert outcome.problems == ()
    assert [(warning.check, warning.examples) for warning in outcome.warnings] == [
        ("contents_disjoint", ("train: 0000002.jpg",))
    ]


def test_share_of_unreadable_images(root: Path) -> None:
    (root / "images/1000001.jpg").write_bytes(b"")
    config = DatasetConfig(source=str(root), kind="mpii", min_persons=4)
    for max_failed, stops in ((0.0, True), (0.1, True), (0.2, False)):
        outcome = validate_dataset(root, config, root.parent / "out", DIGEST, max_failed=max_failed)
        found = outcome.problems if stops else outcome.warnings
        assert [problem.check for problem in found] == ["images_decode"]
        assert bool(outcome.problems) == stops


def test_wild_records_are_problems_and_no_crash(root: Path) -> None:
    wild: list[Any] = [None, True, -1, 1e400, "x", [], {}, [None] * 16, [[1e308, 1]] * 16, 10**400, "\ud800"]
    with edited_rows(root) as rows:
        good = json.loads(json.dumps(rows[0]))
        rows.extend(wild)
        rows.extend(good | {field: value} for field in good for value in wild if (field, value) != ("image", "x"))
    outcome = validate(root)
    checks = {problem.check: problem for problem in outcome.problems}
    assert checks["annotation_records_complete"].count > 50
    assert all(len(problem.examples) <= 5 for problem in outcome.problems)
    assert all(len(example) < 300 for problem in outcome.problems for example in problem.examples)


def test_real_photographs(test_data: Path, tmp_path: Path) -> None:
    """The five persons serve as both splits here, so that only their sharing is a problem."""
    root = tmp_path / "mpii"
    shutil.copytree(test_data / "mpii-mini", root)
    shutil.copy(root / "annot" / "valid.json", root / "annot" / "train.json")
    outcome = validate(root, min_persons=5)
    assert {problem.check for problem in outcome.problems} == {"splits_disjoint"}
    assert outcome.splits[1] == SplitCounts(split="valid", images=5, annotations=5, persons=5)
