"""Top-down evaluation in the boxes of a detector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.errors import ConfigError, DatasetError
from support.dot_pictures import CATEGORY, CONFIG, HEIGHT, ONE, TWO, WIDTH, box_around, measure, write_dataset

BOX_ONE, BOX_TWO = box_around(ONE), box_around(TWO)
OTHER_CATEGORY = 3


def detection(box: Sequence[float], score: Any = 1.0, *, image_id: Any = 1, category_id: Any = CATEGORY) -> dict:
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def write_boxes(folder: Path, content: Any) -> Path:
    file = folder / "boxes.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


MakeDataset = Callable[..., CocoDataset]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    return partial(write_dataset, tmp_path)


def test_persons_are_found_in_detected_boxes_and_named_by_their_poses(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    """Boxes of no annotation, in the order of the detector: the annotation is the one that the pose matches."""
    dataset = make_dataset([ONE, TWO], [TWO])
    shifted = [BOX_TWO[0] - 6, BOX_TWO[1] - 4, BOX_TWO[2] + 9, BOX_TWO[3] + 7]
    boxes = write_boxes(tmp_path, [detection(shifted, image_id=2), detection(shifted), detection(BOX_ONE)])
    report, rows = measure(dataset, boxes=boxes)
    assert report.stats.ap == pytest.approx(1.0, abs=0.01)
    assert [(row["image_id"], row["annotation_id"]) for row in rows] == [(1, 2), (1, 1), (2, 3)]
    for row, truth in zip(rows, (TWO, ONE, TWO), strict=True):
        assert np.abs(np.array(row["keypoints"]).reshape(17, 3)[:, :2] - truth[:, :2]).max() < 2


def test_the_fingerprint_names_the_boxes(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([ONE], [], [TWO])
    boxes = write_boxes(tmp_path, [detection(BOX_ONE)])
    detected, annotated = (measure(dataset, boxes=file)[0].fingerprint for file in (boxes, None))
    assert detected.box_source == "detector"
    assert detected.boxes_digest == hashlib.sha256(boxes.read_bytes()).hexdigest()
    changed = {"box_source": "ground_truth", "boxes_digest": None}
    assert detected.model_copy(update=changed) == annotated


def test_the_score_is_that_of_the_joints_times_that_of_the_box(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([ONE, TWO])
    _, certain = measure(dataset, boxes=write_boxes(tmp_path, [detection(BOX_ONE), detection(BOX_TWO)]))
    _, rows = measure(dataset, boxes=write_boxes(tmp_path, [detection(BOX_ONE, 0.25), detection(BOX_TWO, 0.5)]))
    assert [row["score"] for row in rows] == [
        pytest.approx(before["score"] * score) for before, score in zip(certain, (0.25, 0.5), strict=True)
    ]


def test_of_two_boxes_of_one_person_the_better_stays(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([ONE, TWO])
    found = [detection(BOX_ONE, 0.3), detection(BOX_TWO, 0.9), detection(BOX_ONE, 0.8)]
    _, rows = measure(dataset, boxes=write_boxes(tmp_path, found))
    assert [row["annotation_id"] for row in rows] == [2, 1]
    assert rows[1]["score"] / rows[0]["score"] == pytest.approx(8 / 9, abs=0.02)


def test_a_false_detection_shows_nobody_and_costs_precision(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([ONE], [])
    boxes = write_boxes(tmp_path, [detection(BOX_ONE, 0.5), detection([0, 0, 480, 20], 0.9)])
    _, rows = measure(dataset, lambda images: np.ones((len(images), 17, 64, 48), np.float32), boxes=boxes)
    assert [row["annotation_id"] for row in rows][1] is None


def test_who_is_not_detected_is_missed(make_dataset: MakeDataset, tmp_path: Path) -> None:
    report, rows = measure(make_dataset([ONE], [TWO]), boxes=write_boxes(tmp_path, [detection(BOX_ONE)]))
    assert len(rows) == 1
    assert report.stats.ar == pytest.approx(0.5)
    assert (report.fingerprint.num_images, report.fingerprint.num_persons) == (2, 2)


def test_other_categories_and_images_that_are_not_measured_are_passed_over(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset([ONE], [])
    found = [
        detection([0, 0, -1, 5], image_id=99, category_id=OTHER_CATEGORY),
        detection(BOX_ONE),
        detection(BOX_TWO, image_id=2),
    ]
    boxes = write_boxes(tmp_path, found)
    assert [row["image_id"] for row in measure(dataset, boxes=boxes)[1]] == [1]
    assert [row["image_id"] for row in measure(dataset, boxes=boxes, images="all")[1]] == [1, 2]


@pytest.mark.parametrize(
    "box",
    [
        pytest.param([WIDTH - 0.7, 100, 0.7, 50], id="sliver-at-the-right-edge"),
        pytest.param([100, HEIGHT - 0.8, 40, 0.8], id="sliver-at-the-bottom-edge"),
        pytest.param([-20, 100, 20.5, 50], id="reaches-in-from-the-left"),
        pytest.param([10, 10, 0.5, 0.5], id="less-than-a-pixel"),
        pytest.param([10, 10, 1e-300, 1e-300], id="next-to-nothing"),
    ],
)
def test_a_box_that_shows_anything_of_its_image_is_measured(
    make_dataset: MakeDataset, tmp_path: Path, box: list[float]
) -> None:
    _, alone = measure(make_dataset([ONE]), boxes=write_boxes(tmp_path, [detection(BOX_ONE)]))
    _, rows = measure(make_dataset([ONE]), boxes=write_boxes(tmp_path, [detection(BOX_ONE), detection(box, 0.5)]))
    assert rows[0] == alone[0]
    assert len(rows) == 2


def test_detected_boxes_are_not_clipped_as_annotated_ones_are(make_dataset: MakeDataset, tmp_path: Path) -> None:
    """Half outside: the crop is centred on the border and as high as the box."""
    seen: list[np.ndarray] = []

    def network(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return np.ones((len(images), 17, 64, 48), np.float32)

    dataset = make_dataset([ONE])
    cv2.imwrite(str(dataset.image_path(dataset.images[0])), np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    measure(dataset, network, boxes=write_boxes(tmp_path, [detection([WIDTH - 75, 80, 150, 200])]))
    (crop,) = seen[0]
    # 192×256 for 187.5×250 pixels: the image ends at the middle column.
    assert crop[:, 5:250, :95].min() == 1
    assert crop[:, :, 98:].max() == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param("[{", "is not JSON", id="not-json"),
        pytest.param({"annotations": []}, "is not a list of detections", id="no-list"),
        pytest.param([[1, 2]], "entry number 0: it is not an object", id="no-object"),
        *(
            pytest.param(
                [detection(BOX_ONE), {k: v for k, v in detection(BOX_ONE).items() if k != field}],
                f"entry number 1: '{field}' is missing",
                id=f"no-{field}",
            )
            for field in ("image_id", "category_id", "bbox", "score")
        ),
        pytest.param(
            [detection(BOX_ONE, image_id=77)], "entry number 0: .* no image with the id 77", id="unknown-image"
        ),
        pytest.param([detection(BOX_ONE, image_id="1")], "no image with the id '1'", id="image-id-is-text"),
        pytest.param([detection([1, 2, 3])], r"bbox is \[1, 2, 3\], not four numbers", id="three-numbers"),
        pytest.param([detection([1, float("nan"), 9, 9])], "nan, 9, 9.*not four numbers", id="nan-box"),
        pytest.param([detection([1, 1, float("inf"), 9])], "not four numbers", id="infinite-box"),
        pytest.param([detection([1, 1, 10**400, 9])], "not four numbers", id="huge-box"),
        pytest.param([detection(BOX_ONE, float("nan"))], "score is nan", id="nan-score"),
        pytest.param([detection(BOX_ONE, float("-inf"))], "score is -inf", id="infinite-score"),
        pytest.param([detection(BOX_ONE, None)], "score is None", id="no-score"),
        pytest.param([detection([10, 10, 0, 30])], "0×30 pixels: it has no extent", id="no-width"),
        pytest.param([detection([10, 10, 30, -2])], "30×-2 pixels", id="negative-height"),
        pytest.param([detection([WIDTH + 5, 10, 30, 30])], "lies outside its image", id="right-of-the-image"),
        pytest.param([detection([10, -90, 30, 30])], f"lies outside its image of {WIDTH}×{HEIGHT}", id="above"),
        pytest.param([], r"no detection of a person \(category_id 7\) in the 1 images", id="nothing"),
        pytest.param([detection(BOX_ONE, category_id=OTHER_CATEGORY)], "no detection of a person", id="no-person"),
    ],
)
def test_boxes_that_cannot_be_used_are_refused_before_any_work(
    make_dataset: MakeDataset, tmp_path: Path, content: Any, says: str
) -> None:
    def network(images: np.ndarray) -> np.ndarray:
        raise AssertionError("the network ran")

    boxes = write_boxes(tmp_path, content)
    with pytest.raises(DatasetError, match=says) as caught:
        measure(make_dataset([ONE]), network, boxes=boxes)
    assert str(boxes) in caught.value.message
    assert caught.value.hint


def test_an_image_of_another_size_than_its_record_fails(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([ONE], [TWO])
    cv2.imwrite(str(dataset.image_path(dataset.images[0])), np.zeros((50, 40, 3), np.uint8))
    boxes = write_boxes(tmp_path, [detection(BOX_ONE), detection(BOX_TWO, image_id=2)])
    report, rows = measure(dataset, boxes=boxes, max_failed_images=0.5)
    assert [(one.name, one.reason) for one in report.failed_images] == [
        ("images/val/1.png", f"is 40×50 pixels, but its record says {WIDTH}×{HEIGHT}")
    ]
    assert [row["image_id"] for row in rows] == [2]
    with pytest.raises(DatasetError, match=r"1 cannot be measured, where 0 may fail: images/val/1\.png is 40×50"):
        measure(dataset, boxes=boxes)


def test_a_missing_file_is_named(make_dataset: MakeDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"boxes\.json does not exist"):
        measure(make_dataset([ONE]), boxes=tmp_path / "boxes.json")


def test_whole_images_take_no_boxes(make_dataset: MakeDataset, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"codec": "paf"})
    with pytest.raises(ConfigError, match="takes no boxes"):
        measure(make_dataset([ONE]), config=config, boxes=write_boxes(tmp_path, [detection(BOX_ONE)]))
