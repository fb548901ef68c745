from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hpe_tasks.data.calibration import draw_calibration
from hpe_tasks.data.coco import CocoKeypoints, load_coco
from hpe_tasks.errors import DatasetError
from tests.unit.coco_factory import CALIBRATION, EVALUATION, edited, write_coco


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_coco(tmp_path / "coco", images=12)


def draw(root: Path, *, num_images: int = 5, seed: int = 0) -> CocoKeypoints:
    return draw_calibration(load_coco(root, CALIBRATION), load_coco(root, EVALUATION), num_images=num_images, seed=seed)


def ids(dataset: CocoKeypoints) -> list[int]:
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


def _same_bytes(root: Path) -> None:
    # 101 is drawn with seed 0; its copy has another name and id.
    shutil.copy(root / "images" / CALIBRATION / "000000000101.jpg", root / "images" / EVALUATION / "000000000207.jpg")


@pytest.mark.parametrize(
    ("overlap", "says"),
    [
        pytest.param(_same_ids, "share 1 image ids: 203", id="ids"),
        pytest.param(_same_names, "share 1 file names: 000000000205.jpg", id="names"),
        pytest.param(_same_bytes, "share 1 image contents: 000000000101.jpg = 000000000207.jpg", id="bytes"),
    ],
)
def test_overlap_is_refused(root: Path, overlap: Callable[[Path], None], says: str) -> None:
    overlap(root)
    with pytest.raises(DatasetError, match=says) as caught:
        draw(root)
    assert CALIBRATION in str(caught.value)
    assert EVALUATION in str(caught.value)
    assert caught.value.hint


def test_missing_image_is_named(root: Path) -> None:
    (root / "images" / EVALUATION / "000000000207.jpg").unlink()
    with pytest.raises(DatasetError, match=r"000000000207.jpg does not exist"):
        draw(root)
