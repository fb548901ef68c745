"""CrowdPose: its files, and its metric on cases that are computed by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpe_tasks.config.dataset import DatasetConfig
from hpe_tasks.data.coco import CocoDataset, load_coco
from hpe_tasks.data.fetch.digests import coco_files
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.data.sample.dataset import crowd_index
from hpe_tasks.data.validation import validate_dataset
from hpe_tasks.datasets import CROWDPOSE
from hpe_tasks.datasets.kind import CrowdLevels
from hpe_tasks.errors import DatasetError
from hpe_tasks.metrics.crowdpose import crowdpose_stats
from hpe_tasks.metrics.oks import coco_stats
from hpe_tasks.records.evaluation import CrowdPoseStats

JOINTS = range(14)
SIGMAS = list(CROWDPOSE.sigmas.values())
LEVELS = CrowdLevels("crowdIndex", medium=0.1, hard=0.8)
BOX = (10.0, 20.0, 40.0, 100.0)
AREA = 0.53 * BOX[2] * BOX[3]


def person(image: int, number: int = 1) -> dict[str, Any]:
    """Somebody with every joint labelled, all at one place."""
    return {
        "id": 100 * image + number, "image_id": image, "bbox": list(BOX), "area": AREA, "iscrowd": 0,
        "num_keypoints": 14, "keypoints": [30.0, 70.0, 2] * 14,
    }  # fmt: skip


def found(image: int, similarity: float, score: float = 0.9) -> dict[str, Any]:
    """A pose that is this similar to `person`: each joint is as far off as its own sigma makes of that OKS."""
    offsets = [math.sqrt(-2 * math.log(similarity) * AREA) * 2 * sigma for sigma in SIGMAS]
    return {
        "image_id": image,
        "score": score,
        "keypoints": [value for offset in offsets for value in (30.0 + offset, 70.0, 1)],
    }


def stats(truth: list[dict], results: list[dict], index: dict[int, float]) -> CrowdPoseStats:
    return crowdpose_stats(
        truth, results, joints=list(JOINTS), sigmas=SIGMAS, crowd_index=index, levels=LEVELS
    )  # fmt: skip


@pytest.mark.parametrize(
    ("similarity", "ap", "ap50", "ap75"),
    [
        pytest.param(0.999, 1.0, 1.0, 1.0, id="all ten thresholds"),
        pytest.param(0.77, 0.6, 1.0, 1.0, id="0.50 to 0.75: six of ten"),
        pytest.param(0.52, 0.1, 1.0, 0.0, id="0.50 alone"),
        pytest.param(0.49, 0.0, 0.0, 0.0, id="none"),
    ],
)
def test_one_person_has_the_share_of_thresholds_that_his_oks_reaches(
    similarity: float, ap: float, ap50: float, ap75: float
) -> None:
    measured = stats([person(1)], [found(1, similarity)], {1: 0.0})
    assert measured.ap == pytest.approx(ap)
    assert (measured.ap50, measured.ap75) == pytest.approx((ap50, ap75))
    assert (measured.ar, measured.ar50, measured.ar75) == pytest.approx((ap, ap50, ap75))
    assert (measured.ap_easy, measured.ap_medium, measured.ap_hard) == (pytest.approx(ap), None, None)


def test_images_are_easy_medium_or_hard_by_their_crowd_index() -> None:
    """0.1 and 0.8 themselves are medium. One person for each image; his OKS decides each level's AP."""
    index = {1: 0.0999, 2: 0.1, 3: 0.8, 4: 0.8001}
    similarities = {1: 0.97, 2: 0.77, 3: 0.77, 4: 0.62}
    measured = stats([person(i) for i in index], [found(i, s) for i, s in similarities.items()], index)
    assert measured.ap_easy == pytest.approx(1.0)
    assert measured.ap_medium == pytest.approx(0.6)
    assert measured.ap_hard == pytest.approx(0.3)


def test_who_is_missed_and_who_is_found_where_nobody_is_count() -> None:
    """Two persons in a hard image, one of them found, and before him a pose of nobody: precision 1/2 up to recall 1/2.

    COCO's precision is the mean over the 101 recalls 0, 0.01, …, 1: 51 of them lie at or below one half.
    """
    truth = [person(1), person(1, 2) | {"keypoints": [300.0, 70.0, 2] * 14}]
    nobody = {"image_id": 1, "score": 0.95, "keypoints": [900.0, 900.0, 1] * 14}
    measured = stats(truth, [found(1, 0.99), nobody], {1: 0.9})
    assert measured.ap == measured.ap_hard == pytest.approx(0.5 * 51 / 101)
    assert measured.ar == pytest.approx(0.5)


def test_at_most_twenty_results_of_an_image_count() -> None:
    worse = [found(1, 0.2, score=0.9) for _ in range(20)]
    assert stats([person(1)], [*worse, found(1, 0.99, score=0.1)], {1: 0.0}).ar50 == 0.0
    assert stats([person(1)], [*worse[1:], found(1, 0.99, score=0.1)], {1: 0.0}).ar50 == 1.0


def test_over_all_images_it_is_the_ap_of_coco() -> None:
    random = np.random.default_rng(5)
    index = {image: float(random.uniform(0, 1)) for image in range(1, 30)}
    truth = [person(image) for image in index]
    results = [found(image, float(random.uniform(0.3, 1)), float(random.uniform(0, 1))) for image in index]
    ours = stats(truth, results, index)
    coco = coco_stats(truth, results, joints=list(JOINTS), sigmas=SIGMAS)
    for name in ("ap", "ap50", "ap75", "ar", "ar50", "ar75"):
        assert getattr(ours, name) == pytest.approx(getattr(coco, name))


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    make_sample(tmp_path, SampleSpec(train=1, calibration=3, val=6), splits=["calibration", "val"], kind=CROWDPOSE)
    return tmp_path


@contextmanager
def edited(root: Path, split: str = "val") -> Iterator[dict[str, Any]]:
    path = root / "json" / f"crowdpose_{split}.json"
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))


def load(root: Path) -> CocoDataset:
    return load_coco(root, "val", CROWDPOSE)


def validate(root: Path, out: Path) -> list[str]:
    config = DatasetConfig(
        kind="crowdpose", source=str(root), min_persons=1, calibration_split="calibration", evaluation_split="val"
    )
    outcome = validate_dataset(root, config, out, "0" * 64)
    return [f"{problem.message} {problem.examples}" for problem in outcome.problems]


def test_a_drawn_data_set_is_read_and_valid(drawn: Path, tmp_path: Path) -> None:
    dataset = load(drawn)
    assert dataset.joint_names == CROWDPOSE.skeleton.joints
    assert dataset.skeleton.limb_indices()
    images = {image.id: image for image in dataset.images}
    assert all(0 <= image.crowd_index <= 1 for image in images.values())
    assert len({image.crowd_index for image in images.values()}) > 1
    for one in dataset.all_persons():
        assert one.area == pytest.approx(0.53 * one.box[2] * one.box[3])
        assert one.joints.shape == (14, 3)
    top_head, neck = one.joints[12], one.joints[13]
    assert top_head[1] < neck[1]
    assert validate(drawn, tmp_path / "docs") == []


def test_images_that_the_splits_share_a_folder_for_count_once_for_the_digest(drawn: Path) -> None:
    (drawn / "images" / "of_another_split.jpg").write_bytes(b"x")
    names = [name for name, _ in coco_files(drawn, ["calibration", "val"], CROWDPOSE)]
    assert len(set(names)) == len(names) == 2 + 3 + 6
    assert "json/crowdpose_val.json" in names
    assert "images/of_another_split.jpg" not in names


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda image: image.pop("crowdIndex"), "crowdIndex is missing", id="missing"),
        pytest.param(
            lambda image: image.update(crowdIndex=1.5), "crowdIndex is not a number from 0 to 1", id="too large"
        ),
        pytest.param(lambda image: image.update(crowdIndex="0.5"), "crowdIndex is not a number", id="a text"),
        pytest.param(lambda image: image.update(crowdIndex=True), "crowdIndex is not a number", id="true"),
    ],
)
def test_an_image_that_does_not_say_how_crowded_it_is(drawn: Path, tmp_path: Path, change: Any, says: str) -> None:
    with edited(drawn) as content:
        change(content["images"][2])
        name = content["images"][2]["file_name"]
    with pytest.raises(DatasetError, match=says) as caught:
        load(drawn)
    assert "crowdpose_val.json: the image with id" in caught.value.message
    (problem,) = validate(drawn, tmp_path / "docs")
    assert name in problem
    assert says in problem


def test_files_that_name_the_last_joints_otherwise_are_the_same(drawn: Path) -> None:
    with edited(drawn) as content:
        content["categories"][0]["keypoints"][-2:] = ["head", "neck"]
    assert load(drawn).joint_names == CROWDPOSE.skeleton.joints


def test_a_file_with_other_joints_is_refused(drawn: Path) -> None:
    with edited(drawn) as content:
        content["categories"][0]["keypoints"].pop()
    with pytest.raises(DatasetError, match="CrowdPose has 14 joints"):
        load(drawn)


def test_crowd_index_is_the_share_of_others_joints_in_a_person_s_box() -> None:
    """Two persons of two joints each: one of the second's lies in the first's box, and none the other way."""
    one = {"bbox": [0, 0, 10, 10], "keypoints": [1, 1, 2, 9, 9, 2]}
    two = {"bbox": [8, 8, 0.5, 10], "keypoints": [8.2, 8.5, 2, 8.2, 17, 2]}
    assert crowd_index([one, two]) == pytest.approx((1 / 2 + 0 / 2) / 2)
    assert crowd_index([one]) == 0.0
    assert crowd_index([]) == 0.0
