from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hpe_tasks.data.calibration import CalibrationDraw, calibration_draw, choose_calibration, draw_calibration
from hpe_tasks.data.coco import CocoDataset, CocoImage, Person, load_coco
from hpe_tasks.data.mpii import load_mpii
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.skeletons import COCO17
from support.coco_factory import CALIBRATION, EVALUATION, edited, write_coco
from support.mpii_factory import edited_rows, write_mpii


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco", images=12)


def draw(root: Path, *, num_images: int = 5, seed: int = 0) -> CocoDataset:
    return draw_calibration(load_coco(root, CALIBRATION), load_coco(root, EVALUATION), num_images=num_images, seed=seed)


def ids(dataset: CocoDataset) -> list[int]:
    return [image.id for image in dataset.images]


def test_draw_is_decided_by_the_seed(root: Path) -> None:
    assert ids(draw(root)) == ids(draw(root)) == [101, 102, 109, 110, 111]
    assert ids(draw(root, seed=1)) != ids(draw(root))
    assert draw(root).split == CALIBRATION
    assert len(draw(root).all_persons()) == 10


def test_larger_draw_holds_the_smaller(root: Path) -> None:
    assert set(ids(draw(root, num_images=3))) < set(ids(draw(root, num_images=7)))


def test_images_without_persons_are_not_drawn(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with edited(root, CALIBRATION) as content:
        for row in content["annotations"]:
            if row["image_id"] >= 104:
                row |= {"num_keypoints": 0, "keypoints": [0] * 51}
    with caplog.at_level(logging.WARNING):
        drawn = draw(root)
    assert ids(drawn) == [100, 101, 102, 103]
    assert "only 4 images with persons, not 5" in caplog.text


def test_enough_images_give_no_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw(root, num_images=12)
    assert not caplog.records


def test_split_without_persons(root: Path) -> None:
    with edited(root, CALIBRATION) as content:
        for row in content["annotations"]:
            row["num_keypoints"] = 0
    with pytest.raises(DatasetError, match="'train2017' has no image with a person"):
        draw(root)


def _same_ids(root: Path) -> None:
    with edited(root, CALIBRATION) as content:
        content["images"][3]["id"] = 203
        content["annotations"] = [row for row in content["annotations"] if row["image_id"] != 103]


def _same_names(root: Path) -> None:
    with edited(root, CALIBRATION) as content:
        content["images"][3]["file_name"] = "000000000205.jpg"


@pytest.mark.parametrize(
    ("overlap", "says"),
    [
        pytest.param(_same_ids, "share 1 image ids: 203", id="ids"),
        pytest.param(_same_names, "share 1 file names: 000000000205.jpg", id="names"),
    ],
)
def test_overlap_is_refused(root: Path, overlap: Callable[[Path], None], says: str) -> None:
    overlap(root)
    with pytest.raises(DatasetError, match=says) as caught:
        draw(root)
    assert CALIBRATION in str(caught.value)
    assert EVALUATION in str(caught.value)
    assert caught.value.hint


def test_shared_file_name_of_mpii_is_refused(tmp_path: Path) -> None:
    root = write_mpii(tmp_path / "mpii")
    with edited_rows(root, "train") as rows:
        rows[2]["image"] = "1000002.jpg"
    with pytest.raises(DatasetError, match=r"'train' and the evaluation split 'valid' share 1 file names: 1000002.jpg"):
        draw_calibration(load_mpii(root, "train"), load_mpii(root, "valid"), num_images=2, seed=0)


def test_copy_of_an_evaluation_image_is_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    # 101 is drawn with seed 0; its copy has another name and id.
    copy_image(root, 101, 207)
    with caplog.at_level(logging.WARNING):
        drawn = ids(draw(root))
    assert 101 not in drawn
    assert len(drawn) == 5
    assert set(drawn) > {102, 109, 110, 111}
    assert "000000000101.jpg (the same image as 000000000207.jpg of the evaluation split)" in caplog.text


def test_calibration_on_nothing_but_copies(root: Path) -> None:
    for image in range(12):
        copy_image(root, 100 + image, 200 + image)
    with pytest.raises(DatasetError, match=r"No image of .* 'train2017' is left .* were 12: \d+\.jpg \(the same"):
        draw(root)


def draw_knowing(root: Path, lookalikes: dict[int, str], num_images: int = 5) -> CalibrationDraw[CocoDataset]:
    splits = load_coco(root, CALIBRATION), load_coco(root, EVALUATION)
    return calibration_draw(*splits, num_images=num_images, seed=0, lookalikes=lookalikes)


def test_an_image_that_looks_like_an_evaluation_image_is_left_out_and_told(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        drawn = draw_knowing(root, {101: "000000000207.jpg", 111: "000000000202.jpg"})
    said = "000000000101.jpg (looks like 000000000207.jpg of the evaluation split)"
    assert set(drawn.left_out) == {said, "000000000111.jpg (looks like 000000000202.jpg of the evaluation split)"}
    assert said in caplog.text
    assert not {101, 111} & set(ids(drawn.images))
    assert len(ids(drawn.images)) == 5, "others take their places"


def test_where_all_images_look_like_evaluation_images_the_pairs_are_named(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"Left out were 12: 0+1\d\d.jpg \(looks like judged.jpg of") as caught:
        draw_knowing(root, dict.fromkeys(range(100, 112), "judged.jpg"))
    assert "dataset.calibrate_on_lookalikes=true" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(None, "is missing", id="missing"),
        pytest.param(b"", "is an empty file", id="empty"),
        pytest.param(b"<html>", "is not an image, or is cut off", id="page"),
        pytest.param(
            b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
            "is a GIF, which may hold many pictures; it must be a JPEG or PNG",
            id="gif",
        ),
    ],
)
def test_unreadable_image_is_left_out(
    root: Path, content: bytes | None, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = root / "images" / CALIBRATION / "000000000101.jpg"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        drawn = ids(draw(root))
    assert len(drawn) == 5
    assert 101 not in drawn
    assert f"000000000101.jpg ({says})" in caplog.text


def test_missing_evaluation_image_is_not_the_draws_affair(root: Path) -> None:
    (root / "images" / EVALUATION / "000000000207.jpg").unlink()
    assert len(ids(draw(root))) == 5


def copy_image(root: Path, drawn: int, judged: int) -> None:
    shutil.copy(
        root / "images" / CALIBRATION / f"{drawn:012d}.jpg", root / "images" / EVALUATION / f"{judged:012d}.jpg"
    )


Kind = tuple[float, int, int]
"""Area of every person of an image, their labelled joints, and how many they are."""


def scenes(*, sizes: dict[Kind, int]) -> CocoDataset:
    """So many images of each kind."""
    kinds = [kind for kind, count in sizes.items() for _ in range(count)]
    images = tuple(CocoImage(i, f"{i}.jpg", 640, 480) for i in range(len(kinds)))
    persons = {
        i: tuple(
            Person(100 * i + p, i, (0, 0, 9, 9), np.zeros((17, 3), np.float32), area, joints) for p in range(count)
        )
        for i, (area, joints, count) in enumerate(kinds)
    }
    return CocoDataset(Path(), "train", COCO17.joints, images, persons)


ALONE: Kind = (10_000, 17, 1)
SMALL: Kind = (9_000, 17, 1)
HIDDEN: Kind = (10_000, 5, 1)
PAIR: Kind = (10_000, 17, 3)
MANY: Kind = (10_000, 17, 4)
SIZES = {ALONE: 60, SMALL: 20, HIDDEN: 10, PAIR: 9, MANY: 1}


def drawn_kinds(num_images: int, seed: int = 0) -> Counter[Kind]:
    dataset = scenes(sizes=SIZES)
    chosen = choose_calibration(dataset, num_images=num_images, seed=seed)
    assert len(set(chosen)) == len(chosen)
    persons = [dataset.persons(image) for image in chosen]
    return Counter((group[0].area, group[0].num_joints, len(group)) for group in persons)


@pytest.mark.parametrize("seed", range(3))
def test_every_stratum_is_drawn_when_there_are_images_enough(seed: int) -> None:
    assert drawn_kinds(5, seed) == dict.fromkeys(SIZES, 1)


@pytest.mark.parametrize("num_images", [20, 50, 80])
def test_strata_are_drawn_in_proportion(num_images: int) -> None:
    drawn = drawn_kinds(num_images)
    assert all(abs(drawn[kind] - size * num_images / 100) <= 1 for kind, size in SIZES.items())


def test_frequent_strata_come_first_when_there_are_too_few_images() -> None:
    assert drawn_kinds(2) == {ALONE: 1, SMALL: 1}


@pytest.mark.parametrize("num_images", [1, 7, 40])
def test_choice_from_the_chosen_is_the_same(num_images: int) -> None:
    dataset = scenes(sizes=SIZES)
    chosen = choose_calibration(dataset, num_images=num_images, seed=3)
    again = choose_calibration(dataset.subset(chosen), num_images=num_images, seed=3)
    assert set(again) == set(chosen)


def test_mpii_is_drawn_by_file_name(tmp_path: Path) -> None:
    root = write_mpii(tmp_path / "mpii")
    train, valid = load_mpii(root, "train"), load_mpii(root, "valid")
    # One image shows two persons, two show one.
    assert "0000001.jpg" in choose_calibration(train, num_images=2, seed=0)
    drawn = draw_calibration(train, valid, num_images=2, seed=0)
    assert set(drawn.images) == set(choose_calibration(train, num_images=2, seed=0))
    assert drawn.split == "train"


def test_mpii_copy_of_an_evaluation_image_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_mpii(tmp_path / "mpii")
    shutil.copy(root / "images" / "0000001.jpg", root / "images" / "1000003.jpg")
    with caplog.at_level(logging.WARNING):
        drawn = draw_calibration(load_mpii(root, "train"), load_mpii(root, "valid"), num_images=3, seed=0)
    assert drawn.images == ("0000002.jpg", "0000003.jpg")
    assert "0000001.jpg (the same image as 1000003.jpg of the evaluation split)" in caplog.text
    assert "only 2 images with persons, not 3" in caplog.text


def test_images_without_a_labelled_joint_are_not_chosen_from_mpii(tmp_path: Path) -> None:
    root = write_mpii(tmp_path / "mpii")
    with edited_rows(root, "train") as rows:
        rows[3]["joints_vis"] = [0] * 16
    assert set(choose_calibration(load_mpii(root, "train"), num_images=9, seed=0)) == {"0000001.jpg", "0000002.jpg"}
