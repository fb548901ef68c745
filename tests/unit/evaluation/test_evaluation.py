"""Evaluation on pictures in which every joint is a dot of its own colour: a few lines of network find them exactly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.errors import ConfigError, DatasetError
from hpe_tasks.evaluation.coco import score_spread
from hpe_tasks.metrics.image_tables import read_table
from hpe_tasks.pose.crops import person_score
from hpe_tasks.pose.skeletons import COCO17, MPII16
from hpe_tasks.records.evaluation import ScoreSpread
from support.dot_pictures import CONFIG, ONE, TWO, colour_network, joints_at, measure, write_dataset

MakeDataset = Callable[..., CocoDataset]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    return partial(write_dataset, tmp_path)


def without(keypoints: np.ndarray, joints: Sequence[int]) -> np.ndarray:
    changed = keypoints.copy()
    changed[list(joints), 2] = 0
    return changed


def test_a_network_that_finds_every_joint_has_an_ap_of_one(make_dataset: MakeDataset) -> None:
    report, rows = measure(make_dataset([ONE, TWO], [], [TWO]))
    assert report.stats.ap == pytest.approx(1.0, abs=0.01)
    assert report.stats.ar == pytest.approx(1.0, abs=0.01)
    assert list(report.by_group) == ["head", "shoulders", "elbows", "wrists", "hips", "knees", "ankles"]
    assert all(ap is not None and ap > 0.9 for ap in report.by_group.values())
    assert list(report.by_joint) == list(COCO17.joints)
    assert all(ap is not None and ap > 0.9 for ap in report.by_joint.values())
    assert report.failed_images == ()
    assert report.runtime == "fp32"
    assert report.images_per_second > 0
    assert report.cpu_features == cpu_features()

    assert [(row["image_id"], row["annotation_id"], row["category_id"]) for row in rows] == [
        (1, 1, 7),
        (1, 2, 7),
        (3, 3, 7),
    ]
    for row, truth in zip(rows, [ONE, TWO, TWO], strict=True):
        found = np.array(row["keypoints"]).reshape(17, 3)
        assert np.abs(found[:, :2] - truth[:, :2]).max() < 2
        assert row["score"] == pytest.approx(found[:, 2].mean(), abs=1e-3)
    written = Path(report.predictions.uri.removeprefix("file://"))
    assert report.predictions.sha256 == hashlib.sha256(written.read_bytes()).hexdigest()
    # No temporary file stays.
    assert sorted(path.name for path in written.parent.iterdir()) == [
        "crop_joints.npz",
        "image_table.npz",
        "predictions.json",
    ]


def test_the_fingerprint_says_how_the_number_was_made(make_dataset: MakeDataset) -> None:
    fingerprint = measure(make_dataset([ONE, TWO], [], [TWO]))[0].fingerprint
    assert fingerprint.model_dump(exclude={"joint_map", "sigmas"}) == {
        "dataset_digest": "d" * 64,
        "split": "val",
        "image_ids_digest": hashlib.sha256(b"1,3").hexdigest(),
        "num_images": 2,
        "num_persons": 3,
        "subset": False,
        "box_source": "ground_truth",
        "boxes_digest": None,
        "flip_test": False,
        "decoder": "heatmap argmax with a quarter-pixel shift; person score: mean of the joint scores above 0.2, times "
        "the box's score; OKS-NMS at 0.9",
        "input_size": (192, 256),
        "metric": "coco_oks_ap",
    }
    assert fingerprint.joint_map == tuple((joint, i, i) for i, joint in enumerate(COCO17.joints))
    assert len(fingerprint.sigmas) == 17


def test_the_numbers_are_those_of_pycocotools_on_the_predictions_file(
    make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that is wrong here and there, and a crowd that must be ignored."""

    def sloppy(images: np.ndarray) -> np.ndarray:
        return np.roll(colour_network(images), 3, axis=3)

    dataset = make_dataset([ONE, TWO], [TWO], [ONE, joints_at(200, 30)])
    content = json.loads(dataset.annotation_file.read_text())
    content["annotations"].append(
        {**content["annotations"][0], "id": 99, "iscrowd": 1, "num_keypoints": 0, "keypoints": [0] * 51}
    )
    dataset.annotation_file.write_text(json.dumps(content))
    report, _ = measure(dataset, sloppy)
    assert capsys.readouterr().out == ""

    truth = COCO(str(dataset.annotation_file))
    evaluation = COCOeval(truth, truth.loadRes(str(dataset.root / "out" / "predictions.json")), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    expected = [None if value < 0 else value for value in evaluation.stats.tolist()]
    assert list(report.stats.model_dump().values()) == expected
    assert 0 < report.stats.ap < 0.99


def test_a_wrong_joint_group_shows_in_its_own_ap(make_dataset: MakeDataset) -> None:
    def blind_for_wrists(images: np.ndarray) -> np.ndarray:
        maps = colour_network(images)
        maps[:, 9:11] = 0
        return maps

    report, rows = measure(make_dataset([ONE, TWO]), blind_for_wrists)
    assert report.by_group["wrists"] == 0.0
    assert report.by_group["elbows"] == pytest.approx(1.0)
    assert [joint for joint, ap in report.by_joint.items() if ap == 0.0] == ["left_wrist", "right_wrist"]
    # Joints that were not found do not lower a person's score.
    found = np.array(rows[0]["keypoints"]).reshape(17, 3)[:, 2]
    assert rows[0]["score"] == pytest.approx(found[found > 0.2].mean(), abs=1e-3)


def test_the_table_of_images_has_every_figure_of_the_report(make_dataset: MakeDataset) -> None:
    def half_blind(images: np.ndarray) -> np.ndarray:
        maps = np.roll(colour_network(images), 1, axis=3)
        maps[:, 9:12] = 0
        return maps

    report, _ = measure(make_dataset([ONE, TWO], [TWO], [ONE]), half_blind)
    assert report.image_table is not None
    table = read_table(Path(report.image_table.uri.removeprefix("file://")).read_bytes())
    assert table.images.tolist() == [1, 2, 3]
    sizes = {"size/medium": report.stats.ap_medium, "size/large": report.stats.ap_large}
    groups = {f"group/{group}": ap for group, ap in report.by_group.items()}
    joints = {f"joint/{joint}": ap for joint, ap in report.by_joint.items()}
    expected = {"all": report.stats.ap, **sizes, **groups, **joints}
    figures = {part: None if np.isnan(ap) else ap for part, ap in table.whole().items()}
    assert figures == {part: None if ap is None else pytest.approx(ap, abs=1e-12) for part, ap in expected.items()}
    assert 0 < figures["all"] < 0.99


def test_a_model_of_other_joints_is_measured_on_those_that_both_have(make_dataset: MakeDataset) -> None:
    only_head = without(joints_at(180, 90), range(5, 17))
    dataset = make_dataset([ONE, TWO], [only_head], [only_head, ONE])
    config = CONFIG.model_copy(update={"skeleton": "mpii16"})
    report, rows = measure(dataset, lambda images: colour_network(images, MPII16.joints), config)
    fingerprint = report.fingerprint
    assert fingerprint.joint_map[0] == ("left_shoulder", 13, 5)
    assert [index for _, _, index in fingerprint.joint_map] == list(range(5, 17))
    assert (fingerprint.num_images, fingerprint.num_persons) == (2, 3)
    assert report.stats.ap == pytest.approx(1.0, abs=0.01)
    assert report.stats.ar == pytest.approx(1.0, abs=0.01)
    assert report.by_group["head"] is None
    assert report.by_group["knees"] == pytest.approx(1.0, abs=0.02)
    for row in rows:
        assert row["keypoints"][:15] == [0.0] * 15
        assert all(value > 0 for value in row["keypoints"][15:])


def test_a_data_set_with_its_own_joint_order_is_followed(make_dataset: MakeDataset) -> None:
    order = list(reversed(COCO17.joints))
    dataset = make_dataset([ONE[::-1].copy()], names=order)
    # The colours follow the data set's order in the picture: the network sees them mirrored.
    report, _ = measure(dataset, lambda images: colour_network(images)[:, ::-1])
    assert report.fingerprint.joint_map[0] == ("right_ankle", 16, 0)
    assert report.stats.ap == pytest.approx(1.0, abs=0.01)


def test_joints_without_a_sigma_are_left_out_and_named(
    make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset([ONE], names=["head_top", *COCO17.joints[1:]])
    config = CONFIG.model_copy(update={"joint_names": ("head_top", *COCO17.joints[1:])})
    report, _ = measure(dataset, config=config)
    assert [joint for joint, _, _ in report.fingerprint.joint_map] == list(COCO17.joints[1:])
    assert "head_top" in caplog.text


def test_no_common_joint_is_a_config_error(make_dataset: MakeDataset) -> None:
    config = CONFIG.model_copy(update={"joint_names": ("tail", "snout")})
    with pytest.raises(ConfigError, match=r"tail, snout.*no joint in common"):
        measure(make_dataset([ONE]), config=config)


@pytest.mark.parametrize(
    "images",
    [pytest.param(([], []), id="empty-images"), pytest.param(([without(ONE, range(5, 17))],), id="no-common-joint")],
)
def test_a_split_without_a_person_to_measure_is_a_dataset_error(
    make_dataset: MakeDataset, images: tuple[list[np.ndarray], ...]
) -> None:
    dataset = make_dataset(*images) if images[0] else make_dataset([ONE]).subset([])
    config = CONFIG.model_copy(update={"skeleton": "mpii16"})
    with pytest.raises(DatasetError, match=r"person_keypoints_val\.json"):
        measure(dataset, lambda images: colour_network(images, MPII16.joints), config)


def test_a_subset_is_drawn_by_seed_and_marked(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(*[[ONE]] * 10, [], [])
    first, rows = measure(dataset, num_images=4, seed=3)
    again, same_rows = measure(dataset, num_images=4, seed=3, batch_size=1)
    assert first.fingerprint == again.fingerprint
    assert rows == same_rows
    assert first.fingerprint.subset
    assert (first.fingerprint.num_images, first.fingerprint.num_persons) == (4, 4)
    assert first.stats.ar == pytest.approx(1.0)  # persons of other images are not missed
    ids = {row["image_id"] for row in rows}
    assert len(ids) == 4
    assert ids <= set(range(1, 11))
    assert {row["image_id"] for row in measure(dataset, num_images=4, seed=4)[1]} != ids


def test_further_images_are_those_that_the_subset_leaves(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(*[[ONE]] * 10)

    def ids(further: tuple[int, int] | None = None) -> list[int]:
        return [row["image_id"] for row in measure(dataset, num_images=4, seed=3, further=further)[1]]

    some, more, rest = ids(), ids((0, 2)), ids((2, 6))
    assert [len(some), len(more), len(rest)] == [4, 2, 4]
    assert sorted(some + more + rest) == list(range(1, 11))
    assert measure(dataset, num_images=4)[0].available_images == 10


@pytest.mark.parametrize("num_images", [10, 500])
def test_asking_for_all_images_is_no_subset(make_dataset: MakeDataset, num_images: int) -> None:
    dataset = make_dataset(*[[ONE]] * 10, [])
    report, _ = measure(dataset, num_images=num_images)
    assert report.fingerprint == measure(dataset)[0].fingerprint
    assert not report.fingerprint.subset


def test_a_person_found_twice_is_kept_once(make_dataset: MakeDataset) -> None:
    """Two annotations of one person: their poses are the same, so OKS-NMS keeps the first."""
    _, rows = measure(make_dataset([ONE, ONE, TWO]))
    assert [row["annotation_id"] for row in rows] == [1, 3]


def test_the_report_says_how_sure_the_network_was_of_the_annotated_people(make_dataset: MakeDataset) -> None:
    report, rows = measure(make_dataset([ONE, TWO], [], [TWO]))
    assert report.person_scores is not None
    assert report.person_scores.persons == 3
    scores = [row["score"] for row in rows]
    assert report.person_scores.median == pytest.approx(np.median(scores), abs=1e-3)
    assert min(scores) - 1e-3 <= report.person_scores.low <= report.person_scores.median


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([(7, 0.5)], ScoreSpread(persons=1, low=0.5, median=0.5), id="one"),
        pytest.param(
            [(i, i / 100) for i in range(101)], ScoreSpread(persons=101, low=0.05, median=0.5), id="a hundred"
        ),
        pytest.param([(7, 0.5), (7, 0.9)], ScoreSpread(persons=1, low=0.9, median=0.9), id="the best pose of each"),
        pytest.param([(7, 0.5), (None, 0.1)], ScoreSpread(persons=1, low=0.5, median=0.5), id="nobody's pose"),
        pytest.param([(None, 0.1)], None, id="nobody"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_the_usual_scores_are_those_of_the_annotated_people(
    rows: list[tuple[int | None, float]], expected: ScoreSpread | None
) -> None:
    assert score_spread([{"annotation_id": person, "score": score} for person, score in rows]) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        pytest.param([0.1, 0.4, 0.8], 0.6, id="low-ones-are-left-out"),
        pytest.param([0.2, 0.6], 0.6, id="the-threshold-itself-is-low"),
        pytest.param([0.1, 0.2], 0.0, id="none-is-high-enough"),
        pytest.param([-0.5, 0.5], 0.5, id="negative"),
    ],
)
def test_the_score_of_a_person(scores: list[float], expected: float) -> None:
    assert person_score(np.array(scores, dtype=np.float32)) == pytest.approx(expected)


def test_the_batch_size_changes_nothing(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([ONE, TWO], [TWO], [ONE])
    assert measure(dataset, batch_size=1)[1] == measure(dataset, batch_size=64)[1]
