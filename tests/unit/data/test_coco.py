from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpe_tasks.data.annotation_files import find_root, splits_present
from hpe_tasks.data.coco import load_coco
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.skeletons import COCO17
from support.coco_factory import CALIBRATION, EVALUATION, annotations_file, edited, write_coco


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco")


def test_images_and_persons_are_sorted_and_crowds_left_out(root: Path) -> None:
    with edited(root) as content:
        content["images"].reverse()
        content["annotations"][0] |= {"num_keypoints": 0, "keypoints": [0] * 51}
    dataset = load_coco(root, EVALUATION)
    assert [image.id for image in dataset.images] == [200, 201, 202]
    assert [p.annotation_id for p in dataset.all_persons()] == [2001, 2011, 2012, 2021, 2022]
    assert dataset.persons(202) == dataset.all_persons()[-2:]
    assert dataset.persons(4711) == ()
    first = dataset.persons(200)[0]
    assert first.box == (30.0, 4.0, 25.0, 40.0)
    assert first.area == 500
    assert first.num_joints == 15
    assert first.joints.shape == (17, 3)
    assert first.joints.dtype == np.float32
    assert first.joints[1].tolist() == [32.5, 8.0, 2.0]
    assert dataset.joint_names == COCO17.joints
    assert dataset.annotation_file == annotations_file(root, EVALUATION)
    assert all(dataset.image_path(image).is_file() for image in dataset.images)


def test_2014_names_are_those_of_the_annotation_file(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", splits=("train2014", "val2014"), names="COCO_{split}_{id:012d}.jpg")
    dataset = load_coco(root, "val2014")
    assert dataset.image_path(dataset.images[0]) == root / "images/val2014/COCO_val2014_000000000200.jpg"
    assert dataset.image_path(dataset.images[0]).is_file()


def test_image_folders_may_lie_beside_the_annotations(root: Path) -> None:
    (root / "images" / EVALUATION).rename(root / EVALUATION)
    assert find_root(root, (CALIBRATION, EVALUATION)) == root
    dataset = load_coco(root, EVALUATION)
    assert dataset.image_path(dataset.images[0]).is_file()
    assert splits_present(root) == (CALIBRATION, EVALUATION)


def test_root_may_be_the_only_folder(root: Path) -> None:
    (root.parent / "__MACOSX").mkdir()
    (root.parent / ".DS_Store").touch()
    assert find_root(root.parent, (CALIBRATION, EVALUATION)) == root


def test_joint_names_of_the_categories(root: Path) -> None:
    names = [f"joint_{i}" for i in range(17)]
    with edited(root) as content:
        content["categories"] = [{"id": 9, "name": "dog"}, {"id": 1, "name": "someone", "keypoints": names}]
        content["annotations"].append({"id": 1, "category_id": 9, "image_id": 200, "num_keypoints": 1})
    dataset = load_coco(root, EVALUATION)
    assert dataset.joint_names == tuple(names)
    assert len(dataset.all_persons()) == 6


@pytest.mark.parametrize(
    "categories",
    [
        pytest.param([], id="none"),
        pytest.param([{"id": 1, "name": "person"}], id="without names"),
        pytest.param([{"id": 1, "name": "person", "keypoints": ["nose"] * 17}], id="twice the same"),
        pytest.param([{"id": 1, "name": "person", "keypoints": "nose"}], id="no list"),
    ],
)
def test_joint_names_are_those_of_coco_where_the_file_has_none(root: Path, categories: list[Any]) -> None:
    with edited(root) as content:
        content["categories"] = categories
    assert load_coco(root, EVALUATION).joint_names == COCO17.joints


def test_subset(root: Path) -> None:
    dataset = load_coco(root, EVALUATION).subset([202, 200])
    assert [image.id for image in dataset.images] == [200, 202]
    assert len(dataset.all_persons()) == 4
    assert dataset.persons(201) == ()
    with pytest.raises(DatasetError, match="no image with id 5"):
        dataset.subset([5])


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(_without("images"), "'images' is missing", id="no images"),
        pytest.param(_without("annotations"), "'annotations' is missing", id="no annotations"),
        pytest.param(lambda c: c.update(annotations=[1]), "'annotations' is missing or is not a list", id="odd rows"),
        pytest.param(lambda c: c.update(categories=7), "'categories'", id="odd categories"),
        pytest.param(
            lambda c: c.update(images_left_out=["7"]), "'images_left_out' is not a list", id="odd images left out"
        ),
        pytest.param(lambda c: c["images"][0].pop("id"), "image with id None .* 'id' is missing", id="no image id"),
        pytest.param(lambda c: c["images"][0].update(width=None), "image with id 200", id="no width"),
        pytest.param(lambda c: c["images"][1].update(id=200), "image id 200 is there twice", id="id twice"),
        pytest.param(lambda c: c["images"][0].update(file_name="../a.jpg"), r"'\.\./a.jpg'", id="leaves the folder"),
        pytest.param(lambda c: c["images"][0].update(file_name="/etc/passwd"), "'/etc/passwd'", id="absolute"),
        pytest.param(lambda c: c["annotations"][0].pop("bbox"), "2002 .*'bbox' is missing", id="no box"),
        pytest.param(lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "2002", id="short box"),
        pytest.param(lambda c: c["annotations"][0].update(area="large"), "2002 .*large", id="odd area"),
        pytest.param(lambda c: c["annotations"][0]["keypoints"].pop(), "2002", id="50 numbers"),
        pytest.param(lambda c: c["annotations"][0].update(image_id=5), "2002 belongs to image 5", id="other image"),
        pytest.param(lambda c: [a.pop("keypoints") for a in c["annotations"]], "no joints", id="instances file"),
    ],
)
def test_records_that_cannot_be_used(root: Path, change: Callable[[dict[str, Any]], object], says: str) -> None:
    with edited(root) as content:
        change(content)
    with pytest.raises(DatasetError, match=says) as caught:
        load_coco(root, EVALUATION)
    assert str(annotations_file(root, EVALUATION)) in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param('{"images": [', "is not JSON", id="cut off"),
        pytest.param("[1]", "top level", id="list"),
        pytest.param("[" * 100_000, "is not JSON", id="nested too deep"),
        pytest.param("\xff\xfe\x00", "is not JSON", id="binary"),
        pytest.param(None, "does not exist", id="missing"),
    ],
)
def test_files_that_cannot_be_read(root: Path, text: str | None, says: str) -> None:
    path = annotations_file(root, EVALUATION)
    path.unlink()
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match=says) as caught:
        load_coco(root, EVALUATION)
    assert str(path) in str(caught.value)


def test_missing_split_names_those_that_are_there(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"no annotations/person_keypoints_test.json.*train2017, val2017"):
        find_root(root, (CALIBRATION, "test"))


def test_missing_images_say_what_was_looked_for(root: Path) -> None:
    shutil.rmtree(root / "images")
    with pytest.raises(DatasetError, match=r"has no images/train2017/\. It holds: annotations/\.") as caught:
        find_root(root, (CALIBRATION, EVALUATION))
    assert "dataset.image_archives" in caught.value.hint
    assert "dataset.images_by_url" in caught.value.hint


def test_images_of_one_split_are_missing(root: Path) -> None:
    shutil.rmtree(root / "images" / CALIBRATION)
    with pytest.raises(DatasetError, match=r"has no images/train2017/\. It has these splits: val2017\.") as caught:
        find_root(root, (CALIBRATION, EVALUATION))
    assert "add the missing one" in caught.value.hint
    assert "dataset.image_archives" in caught.value.hint


def test_folder_that_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(DatasetError, match=r"It holds: letter.txt\. A data set holds images/<split>/"):
        find_root(tmp_path, (CALIBRATION, EVALUATION))


def test_real_photographs(test_data: Path) -> None:
    dataset = load_coco(test_data / "coco-mini", EVALUATION)
    assert (len(dataset.images), len(dataset.all_persons())) == (79, 68)
    annotations = json.loads(dataset.annotation_file.read_text())["annotations"]
    labelled = {a["id"] for a in annotations if a["num_keypoints"] and not a["iscrowd"]}
    assert {p.annotation_id for p in dataset.all_persons()} == labelled
