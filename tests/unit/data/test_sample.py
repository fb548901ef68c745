from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hpe_tasks.data.annotation_files import splits_present
from hpe_tasks.data.coco import load_coco
from hpe_tasks.data.sample import SCENERIES, SPLITS, SampleSpec, draw_picture, make_sample
from hpe_tasks.errors import ConfigError, StorageError
from hpe_tasks.pose.skeletons import COCO17

SPEC = SampleSpec(train=3, calibration=4, val=12, width=240, height=180, seed=5)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, SPEC)
    return folder


def annotations_of(folder: Path, split: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "annotations" / f"person_keypoints_{split}.json").read_text())
    return content


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_layout_is_what_the_pipeline_reads(sample: Path) -> None:
    assert splits_present(sample) == tuple(sorted(SPLITS))
    for split in SPLITS:
        dataset = load_coco(sample, split)
        assert dataset.joint_names == COCO17.joints
        assert len(dataset.images) == SPEC.images(split)
        assert all(dataset.image_path(image).is_file() for image in dataset.images)
        assert len(dataset.all_persons()) >= len(dataset.images)


def test_same_spec_gives_same_bytes(sample: Path, tmp_path: Path) -> None:
    make_sample(tmp_path, SPEC)
    assert digests(tmp_path) == digests(sample)


def test_a_split_does_not_depend_on_the_others(sample: Path, tmp_path: Path) -> None:
    make_sample(tmp_path, SPEC, splits=["val"])
    assert splits_present(tmp_path) == ("val",)
    made = digests(tmp_path)
    assert made == {name: digest for name, digest in digests(sample).items() if name in made}


def test_pictures_with_some_sceneries_are_those_of_the_whole(sample: Path, tmp_path: Path) -> None:
    """Each is in one of two halves."""
    halves = [tmp_path / "first", tmp_path / "other"]
    for folder, sceneries in zip(halves, (SCENERIES[:2], SCENERIES[2:]), strict=True):
        make_sample(folder, SPEC, splits=["val"], sceneries=sceneries)
    first, other, whole = ({row["file_name"] for row in annotations_of(f, "val")["images"]} for f in (*halves, sample))
    assert first
    assert other
    assert first | other == whole
    assert not first & other
    for folder, names in zip(halves, (first, other), strict=True):
        assert {path.name for path in (folder / "images" / "val").iterdir()} == names
        for name in names:
            kept, made = (root / "images" / "val" / name for root in (folder, sample))
            assert kept.read_bytes() == made.read_bytes()


def test_a_picture_does_not_depend_on_how_many_there_are() -> None:
    more = SampleSpec(train=300, calibration=40, val=120, width=SPEC.width, height=SPEC.height, seed=SPEC.seed)
    first, second = draw_picture(SPEC, "val", 7), draw_picture(more, "val", 7)
    assert np.array_equal(first.image, second.image)
    assert first.persons == second.persons


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((SampleSpec(width=240, height=180, seed=6), "val", 0), id="seed"),
        pytest.param((SPEC, "train", 0), id="split"),
        pytest.param((SPEC, "val", 1), id="index"),
    ],
)
def test_pictures_differ(other: tuple[SampleSpec, str, int]) -> None:
    assert not np.array_equal(draw_picture(SPEC, "val", 0).image, draw_picture(*other).image)


def test_ids_and_pictures_differ_between_splits(sample: Path) -> None:
    images: list[int] = []
    persons: list[int] = []
    for split in SPLITS:
        content = annotations_of(sample, split)
        images += [image["id"] for image in content["images"]]
        persons += [person["id"] for person in content["annotations"]]
        assert {person["image_id"] for person in content["annotations"]} <= {i["id"] for i in content["images"]}
    assert len(set(images)) == len(images)
    assert len(set(persons)) == len(persons)
    hashes = [digest for name, digest in digests(sample).items() if name.endswith(".jpg")]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("split", SPLITS)
def test_records_are_valid_coco(sample: Path, split: str) -> None:
    content = annotations_of(sample, split)
    (category,) = content["categories"]
    assert category["keypoints"] == list(COCO17.joints)
    assert all(1 <= index <= 17 for limb in category["skeleton"] for index in limb)
    licences = {licence["id"] for licence in content["licenses"]}
    for image in content["images"]:
        pixels = cv2.imread(str(sample / "images" / split / image["file_name"]))
        assert pixels is not None
        assert pixels.shape == (image["height"], image["width"], 3) == (SPEC.height, SPEC.width, 3)
        assert image["license"] in licences
    for person in content["annotations"]:
        check_person(person)


def check_person(person: dict[str, Any]) -> None:
    x, y, width, height = person["bbox"]
    assert x >= 0
    assert y >= 0
    assert width > 0
    assert height > 0
    assert x + width <= SPEC.width
    assert y + height <= SPEC.height
    assert 0 < person["area"] <= width * height
    assert person["iscrowd"] == 0
    assert person["category_id"] == 1
    points = np.array(person["keypoints"], dtype=float).reshape(17, 3)
    assert set(points[:, 2]) <= {0, 1, 2}
    assert person["num_keypoints"] == (points[:, 2] > 0).sum() > 0
    assert (points[points[:, 2] == 0] == 0).all()
    labelled = points[points[:, 2] > 0, :2]
    assert (labelled >= 0).all()
    assert (labelled <= (SPEC.width - 1, SPEC.height - 1)).all()
    # What is seen is part of the person's own silhouette, so it lies in the box (give or take a rounded pixel).
    seen = points[points[:, 2] == 2, :2]
    assert (seen >= (x - 2, y - 2)).all()
    assert (seen <= (x + width + 1, y + height + 1)).all()
    assert person["segmentation"]
    for polygon in person["segmentation"]:
        assert len(polygon) >= 6
        corners = np.array(polygon).reshape(-1, 2)
        assert (corners >= (x, y)).all()
        assert (corners < (x + width, y + height)).all()


def test_facing_people_have_their_left_on_the_right() -> None:
    """The mirror image of left and right is what a careless generator gets wrong."""
    ears, noses = {"left": COCO17.joints.index("left_ear"), "right": COCO17.joints.index("right_ear")}, 0
    facing = behind = 0
    for index in range(30):
        for person in draw_picture(SPEC, "train", index).persons:
            points = np.array(person["keypoints"], dtype=float).reshape(17, 3)
            left, right = points[ears["left"]], points[ears["right"]]
            if left[2] == 0 or right[2] == 0:
                continue
            if points[noses, 2] > 0:
                facing += 1
                assert left[0] > right[0]
            else:
                behind += 1
                assert left[0] < right[0]
    assert facing > behind > 0


def test_splits_hold_hidden_joints_and_several_people() -> None:
    persons = [draw_picture(SPEC, "val", index).persons for index in range(12)]
    visibilities = {v for group in persons for person in group for v in person["keypoints"][2::3]}
    assert visibilities == {0, 1, 2}
    assert max(len(group) for group in persons) >= 3


def test_the_smallest_pictures_can_be_drawn_with_every_scenery() -> None:
    spec = SampleSpec(width=96, height=96)
    drawn = [draw_picture(spec, "train", number) for number in range(40)]
    assert {picture.scenery for picture in drawn} == set(SCENERIES)
    assert all(picture.image.shape == (96, 96, 3) for picture in drawn)


@pytest.mark.parametrize(
    ("build", "names"),
    [
        pytest.param(lambda: SampleSpec(val=0), "val", id="no images"),
        pytest.param(lambda: SampleSpec(width=20), "20×300", id="tiny"),
        pytest.param(lambda: SampleSpec(seed=-1), "-1", id="negative seed"),
        pytest.param(lambda: make_sample(Path("nowhere"), SPEC, splits=["test"]), "test", id="unknown split"),
    ],
)
def test_bad_requests_are_refused(build: Any, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        build()
    assert not Path("nowhere").exists()


def test_a_full_disk_leaves_no_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    written: list[Path] = []
    real = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(StorageError, match="full"):
        make_sample(tmp_path, SPEC, splits=["val"])
    assert not list((tmp_path / "annotations").iterdir())


@pytest.mark.slow
def test_the_default_sample_is_large_enough(tmp_path: Path) -> None:
    make_sample(tmp_path, splits=["calibration", "val"])
    val = load_coco(tmp_path, "val")
    assert len(val.all_persons()) >= 300
    assert len(load_coco(tmp_path, "calibration").images) == 120
