"""COCO's figures against pycocotools, which is the reference, and the rest of the module against values by hand."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hpe_tasks import datasets
from hpe_tasks.metrics.oks import (
    coco_breakdown,
    coco_sigmas,
    coco_stats,
    match_poses,
    oks,
    suppress_duplicates,
)
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.records.evaluation import CocoStats

ALL = tuple(range(17))
SIGMAS = tuple(coco_sigmas().values())
BODY = tuple(range(5, 17))
MEDIUM, LARGE = 50.0**2, 200.0**2
ONE = pytest.approx(1.0)  # pycocotools adds an epsilon to a denominator


def person(number: int, *, image: int = 1, area: float = LARGE, visible: tuple[int, ...] = ALL, crowd: int = 0) -> dict:
    """An annotation with joints in a column at x = 100·number."""
    keypoints = np.zeros((17, 3))
    for joint in visible:
        keypoints[joint] = 100.0 * number, 10.0 * joint, 2
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": len(visible),
        "bbox": [100.0 * number - 20, 0.0, 40.0, 170.0],
        "area": area,
        "iscrowd": crowd,
    }


def found(annotation: dict, *, score: float = 0.9, shift: tuple[float, ...] = (0.0,) * 17) -> dict:
    """A prediction that misses each joint of the annotation by `shift` in x."""
    keypoints = np.array(annotation["keypoints"], dtype=np.float64).reshape(17, 3)
    keypoints[:, 0] += shift
    keypoints[:, 2] = 1
    return {
        "image_id": annotation["image_id"],
        "category_id": 1,
        "keypoints": keypoints.ravel().tolist(),
        "score": score,
    }


def stats(truth: list[dict], results: list[dict], joints: tuple[int, ...] = ALL) -> CocoStats:
    return coco_stats(truth, results, joints=joints, sigmas=[SIGMAS[j] for j in joints])


def directly(
    truth: list[dict], results: list[dict], joints: tuple[int, ...] = ALL, sigmas: tuple[float, ...] = SIGMAS
) -> list[float]:
    """The ten numbers as a user of pycocotools computes them, from rows that hold these joints alone."""
    expected_rows, result_rows = copy.deepcopy((truth, results))
    for row in expected_rows:
        keypoints = np.reshape(row["keypoints"], (-1, 3))[list(joints)]
        row["keypoints"] = keypoints.ravel().tolist()
        row["num_keypoints"] = int((keypoints[:, 2] > 0).sum()) if row["num_keypoints"] else 0
    for row in result_rows:
        row["keypoints"] = np.reshape(row["keypoints"], (-1, 3))[list(joints)].ravel().tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        expected, detected = COCO(), COCO()
        expected.dataset = {
            "images": [{"id": i} for i in sorted({row["image_id"] for row in (*truth, *results)})],
            "annotations": expected_rows,
            "categories": [{"id": 1, "name": "person"}],
        }
        expected.createIndex()
        detected.dataset = {"annotations": []}
        if result_rows:  # `loadRes` refuses none.
            detected = expected.loadRes(result_rows)
        evaluation = COCOeval(expected, detected, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def numbers(stats: CocoStats) -> list[float]:
    """As pycocotools writes them."""
    return [-1.0 if value is None else value for value in stats.model_dump().values()]


def split(seed: int, *, images: int, per_image: int, results_per_image: int) -> tuple[list[dict], list[dict]]:
    """Annotations and results with everything that COCO has: crowds, persons without labels, equal scores, several
    poses of one person, poses of nobody, joints that were not found, images without persons and without results."""
    rng = np.random.default_rng(seed)
    truth: list[dict] = []
    for image in rng.permutation(images).tolist():
        for _ in range(int(rng.integers(0, per_image + 1))):
            kind = rng.random()
            visible = () if kind < 0.2 else tuple(np.flatnonzero(rng.random(17) < rng.choice([0.2, 0.9])).tolist())
            row = person(len(truth) + 1, image=image, area=float(rng.choice([900, MEDIUM, LARGE])), visible=visible)
            keypoints = np.reshape(row["keypoints"], (17, 3))
            keypoints[list(visible), 0] -= 95 * rng.integers(0, 3)  # Some stand in front of others.
            row["keypoints"] = keypoints.ravel().tolist()
            truth.append({**row, "iscrowd": int(kind < 0.05)})
    results: list[dict] = []
    for image in range(images):
        near = [row for row in truth if row["image_id"] == image] or [person(image, image=image)]
        for _ in range(int(rng.integers(0, results_per_image + 1))):
            row = near[int(rng.integers(len(near)))]
            x, y = row["bbox"][:2]
            keypoints = np.reshape(row["keypoints"], (17, 3)) + 0.0
            keypoints[keypoints[:, 2] == 0, :2] = x, y
            keypoints[:, :2] += rng.normal(0, rng.choice([1, 10, 40]), (17, 2))
            keypoints[rng.random(17) < rng.choice([0, 0.3])] = 0
            score = round(float(rng.random()), int(rng.choice([1, 8])))
            results.append(
                {"image_id": image, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": score}
            )
    return truth, [results[index] for index in rng.permutation(len(results))]


def miss(similarity: float, area: float, sigma: float) -> float:
    """The distance at which one joint's OKS has this value: OKS = exp(-d² / (2·area·(2·sigma)²))."""
    return float(np.sqrt(-np.log(similarity) * 2 * area * (2 * sigma) ** 2))


def test_perfect_predictions_have_an_ap_of_one() -> None:
    truth = [person(1), person(2, area=MEDIUM), person(3, image=2)]
    got = stats(truth, [found(row) for row in truth])
    assert list(got.model_dump().values()) == [ONE] * 10


def test_a_size_that_no_person_has_is_none() -> None:
    truth = [person(1, area=LARGE)]
    got = stats(truth, [found(truth[0])])
    assert (got.ap, got.ap_medium, got.ar_medium, got.ap_large) == (ONE, None, None, ONE)


@pytest.mark.parametrize(
    ("similarity", "ap", "ap50", "ap75"),
    [
        pytest.param(0.97, 1.0, 1, 1, id="above-all-ten-thresholds"),
        pytest.param(0.82, 0.7, 1, 1, id="above-seven"),  # 0.50, 0.55 … 0.80
        pytest.param(0.73, 0.5, 1, 0, id="above-five"),
        pytest.param(0.51, 0.1, 1, 0, id="above-one"),
        pytest.param(0.49, 0.0, 0, 0, id="below-all"),
    ],
)
def test_ap_of_one_person_counts_the_thresholds_below_its_oks(
    similarity: float, ap: float, ap50: float, ap75: float
) -> None:
    truth = [person(1)]
    shift = tuple(miss(similarity, LARGE, sigma) for sigma in SIGMAS)
    got = stats(truth, [found(truth[0], shift=shift)])
    assert (got.ap, got.ap50, got.ap75) == pytest.approx((ap, ap50, ap75), abs=1e-9)
    assert got.ar == pytest.approx(ap)


def test_a_better_scored_false_detection_halves_precision() -> None:
    truth = [person(1)]
    nowhere = found(truth[0], score=0.95, shift=(5000.0,) * 17)
    assert stats(truth, [found(truth[0], score=0.9), nowhere]).ap == pytest.approx(0.5)
    assert stats(truth, [found(truth[0], score=0.99), nowhere]).ap == ONE


@pytest.mark.parametrize(
    "annotation",
    [
        pytest.param(person(2, crowd=1), id="crowd"),
        pytest.param(person(2, visible=()), id="unlabelled"),
        pytest.param({**person(2), "num_keypoints": 0}, id="called-unlabelled"),
        pytest.param({"id": 2, "image_id": 1, "iscrowd": 1}, id="crowd-without-any-field"),
    ],
)
def test_what_cannot_be_found_is_ignored_and_not_missed(annotation: dict[str, Any]) -> None:
    truth = [person(1), annotation]
    assert stats(truth, [found(truth[0])]).ar == ONE


def test_a_subset_of_joints_restricts_truth_and_results() -> None:
    only_head = person(2, visible=(0, 1, 2))
    truth = [person(1), only_head]
    # Wrong in every joint of the head, right in the body.
    wrong_head = tuple(1000.0 if joint < 5 else 0.0 for joint in ALL)
    results = [found(truth[0], shift=wrong_head)]
    assert stats(truth, results, BODY).ar == ONE  # `only_head` is ignored
    assert stats(truth, results, BODY).ap == ONE
    assert stats(truth, results, (0, 1, 2, 3, 4)).ap == 0.0
    assert stats(truth, results).ar == 0.5 * 0.5  # 12 of 17 joints: OKS 0.71 passes five thresholds, for one of two


def test_the_area_stays_that_of_the_person() -> None:
    truth = [person(1, area=MEDIUM)]
    got = stats(truth, [found(truth[0])], BODY)
    assert (got.ap_medium, got.ap_large) == (ONE, None)


def test_the_annotation_id_zero_counts_as_any_other() -> None:
    """pycocotools itself takes a match with id 0 for none."""
    truth = [{**person(1), "id": 0}]
    assert stats(truth, [found(truth[0])]).ap == ONE


def test_no_predictions_miss_everyone() -> None:
    got = stats([person(1, area=LARGE)], [])
    assert (got.ap, got.ar, got.ap_large, got.ap_medium) == (0.0, 0.0, 0.0, None)


def test_no_person_gives_no_numbers() -> None:
    unlabelled = person(1, visible=())
    assert set(stats([unlabelled], []).model_dump().values()) == {None}
    assert set(stats([unlabelled], [found(person(1))]).model_dump().values()) == {None}


JOINT_SETS = st.lists(st.sampled_from(ALL), min_size=1, max_size=17, unique=True).map(tuple)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 12),
    per_image=st.sampled_from([0, 1, 3, 8]),
    results_per_image=st.sampled_from([0, 1, 4, 30]),
    joints=st.just(ALL) | JOINT_SETS,
    factor=st.sampled_from([1.0, 0.5, 3.0]),
)
def test_all_ten_numbers_equal_those_of_pycocotools(
    seed: int, images: int, per_image: int, results_per_image: int, joints: tuple[int, ...], factor: float
) -> None:
    truth, results = split(seed, images=images, per_image=per_image, results_per_image=results_per_image)
    sigmas = tuple(factor * SIGMAS[joint] for joint in joints)
    stats = coco_stats(truth, results, joints=joints, sigmas=sigmas)
    assert numbers(stats) == pytest.approx(directly(truth, results, joints, sigmas), abs=1e-9, rel=0)
    breakdown = coco_breakdown(truth, results, {"part": (joints, sigmas), "nose": ((0,), (0.026,))})
    assert breakdown["part"] == stats.ap
    assert breakdown["nose"] == coco_stats(truth, results, joints=(0,), sigmas=(0.026,)).ap


def test_only_the_twenty_best_results_of_an_image_count() -> None:
    truth = [person(1)]
    elsewhere = [found(truth[0], score=0.9, shift=(5000.0,) * 17) for _ in range(20)]
    results = [*elsewhere[:19], found(truth[0], score=0.5), elsewhere[19]]
    assert numbers(stats(truth, results)) == directly(truth, results)
    assert stats(truth, results).ar == 0.0
    assert stats(truth, results[:20]).ar == ONE


def test_photographs_have_the_numbers_of_pycocotools(test_data: Path) -> None:
    rng = np.random.default_rng(0)
    for subset in ("train2017", "val2017"):
        file = test_data / "coco-mini" / "annotations" / f"person_keypoints_{subset}.json"
        truth = json.loads(file.read_text())["annotations"]
        labelled = [row for row in truth if row["num_keypoints"]]
        results = []
        for row in (*labelled, *labelled[::2]):
            sway = rng.normal(0, rng.choice([0.3, 1, 2]) * np.sqrt(row["area"]) * np.array(SIGMAS), 17)
            results.append(found(row, score=round(float(rng.random()), 1), shift=tuple(sway)))
        parts = {"all": ALL, "body": BODY, "wrists": (9, 10), "nose": (0,)}
        sigmas = {name: tuple(SIGMAS[joint] for joint in joints) for name, joints in parts.items()}
        breakdown = coco_breakdown(truth, results, {name: (parts[name], sigmas[name]) for name in parts})
        for name, joints in parts.items():
            expected = directly(truth, results, joints, sigmas[name])
            assert numbers(stats(truth, results, joints)) == pytest.approx(expected, abs=1e-9, rel=0)
            assert breakdown[name] == pytest.approx(expected[0], abs=1e-9, rel=0)
            assert 0.1 < expected[0] < 0.95


def test_a_part_that_nobody_has_labelled_is_none() -> None:
    truth = [person(1, visible=BODY)]
    sigmas = {"nose": (0,), "body": BODY}
    parts = {name: (joints, [SIGMAS[j] for j in joints]) for name, joints in sigmas.items()}
    assert coco_breakdown(truth, [found(truth[0])], parts) == {"nose": None, "body": ONE}
    assert coco_breakdown(truth, [], parts) == {"nose": None, "body": 0.0}
    assert coco_breakdown([], [], parts) == {"nose": None, "body": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"score": np.nan}, r"result 1 \(image 1\) has a joint or a score", id="score"),
        pytest.param({"keypoints": [np.nan] * 51}, r"result 1 \(image 1\) has a joint or a score", id="joint"),
        pytest.param({"keypoints": [1.0] * 48}, "image 1 has a pose of 48 numbers where others have 51", id="length"),
    ],
)
def test_results_that_have_no_place_in_an_image_are_refused(changes: dict[str, Any], message: str) -> None:
    """pycocotools takes NaN for a perfect match."""
    truth = [person(1)]
    with pytest.raises(ValueError, match=message):
        stats(truth, [found(truth[0]), found(truth[0]) | changes])


def test_arguments_stay_as_they_were_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    truth = [person(1), person(2, crowd=1)]
    results = [found(truth[0])]
    before = json.dumps([truth, results])
    stats(truth, results, BODY)
    assert json.dumps([truth, results]) == before
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("joints", "sigmas"), [((), ()), ((0, 1), (0.1,))], ids=["none", "unequal"])
def test_joints_and_sigmas_must_match(joints: tuple[int, ...], sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="joints and sigmas"):
        coco_stats([person(1)], [], joints=joints, sigmas=sigmas)
    with pytest.raises(ValueError, match="joints and sigmas"):
        coco_breakdown([person(1)], [], {"part": (joints, sigmas)})


def test_sigmas_are_those_of_coco() -> None:
    tenths = [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
    assert list(coco_sigmas()) == list(COCO17.joints)
    assert list(coco_sigmas().values()) == pytest.approx([value / 10 for value in tenths])


def test_every_coco_joint_is_in_one_group() -> None:
    grouped = [joint for joints in datasets.COCO.groups.values() for joint in joints]
    assert sorted(grouped) == sorted(COCO17.joints)


def test_oks_by_hand() -> None:
    # One joint 3 px off and one exact: (exp(-9 / (2·100·(2·0.1)²)) + 1) / 2
    pose, other = [(0.0, 0.0), (5.0, 5.0)], [[(3.0, 0.0), (5.0, 5.0)]]
    assert oks(pose, other, [100.0], [0.1, 0.2]) == pytest.approx([(np.exp(-9 / 8) + 1) / 2])


@pytest.mark.parametrize(
    ("poses", "scores", "kept"),
    [
        pytest.param([0, 0.1, 500], [0.5, 0.9, 0.1], [1, 2], id="the-better-duplicate-stays"),
        pytest.param([0, 0.1], [0.5, 0.5], [0], id="the-first-of-equals-stays"),
        pytest.param([0, 500], [0.1, 0.9], [1, 0], id="different-persons-stay"),
        pytest.param([0, 0.1, 0.2], [0.1, 0.2, 0.3], [2], id="three-of-one-person"),
        pytest.param([0], [0.0], [0], id="one-pose"),
    ],
)
def test_duplicates_go(poses: list[float], scores: list[float], kept: list[int]) -> None:
    keypoints = np.zeros((len(poses), 17, 2)) + np.array(poses)[:, None, None]
    assert suppress_duplicates(keypoints, scores, [LARGE] * len(poses), SIGMAS, threshold=0.9) == kept


@pytest.mark.parametrize(("area", "kept"), [(100.0, [0, 1]), (300.0, [0])], ids=["small-areas", "large-areas"])
def test_the_area_of_a_pair_is_the_mean_of_both(area: float, kept: list[int]) -> None:
    # Alone, an area of 100 gives an OKS of 0.866, one of 300 0.953; their mean, 200, gives 0.930.
    distance = miss(0.93, 200, 0.1)
    keypoints = [[(0.0, 0.0)], [(distance, 0.0)]]
    assert suppress_duplicates(keypoints, [0.9, 0.8], [100.0, area], [0.1], threshold=0.9) == kept


def row_of_poses(positions: list[float]) -> np.ndarray:
    """Poses whose 17 joints lie at one point (x, 0) each."""
    poses = np.zeros((len(positions), 17, 2))
    poses[:, :, 0] = np.array(positions)[:, None]
    return poses


@pytest.mark.parametrize(
    ("found_at", "scores", "persons_at", "expected"),
    [
        pytest.param([500, 0], [0.9, 0.8], [0, 500], [1, 0], id="each-its-own"),
        pytest.param([3, 0], [0.9, 0.8], [0], [0, None], id="the-better-score-takes-the-person"),
        pytest.param([3, 0], [0.5, 0.5], [0], [0, None], id="the-first-of-equals"),
        pytest.param([1, 0], [0.9, 0.8], [0, 40], [0, 1], id="what-is-taken-leaves-the-next-best"),
        pytest.param([5000], [0.9], [0], [None], id="too-far-from-everyone"),
        pytest.param([0, 1], [0.9, 0.8], [], [None, None], id="nobody-annotated"),
        pytest.param([], [], [0], [], id="nothing-found"),
    ],
)
def test_found_poses_are_matched_to_persons(
    found_at: list[float], scores: list[float], persons_at: list[float], expected: list[int | None]
) -> None:
    persons = row_of_poses(persons_at)
    matches = match_poses(
        row_of_poses(found_at), scores, persons, np.ones(persons.shape[:2]), [LARGE] * len(persons), SIGMAS
    )
    assert matches == expected


def test_poses_are_matched_by_labelled_joints_alone() -> None:
    persons, visible = row_of_poses([0, 0]), np.zeros((2, 17))
    visible[1, 5] = 2
    pose = row_of_poses([5000])
    pose[0, 5] = 0, 0
    assert match_poses(pose, [0.9], persons, visible, [LARGE] * 2, SIGMAS) == [1]
    assert match_poses(pose, [0.9], persons[:1], visible[:1], [LARGE], SIGMAS) == [None]


@pytest.mark.parametrize(("similarity", "expected"), [(0.11, [0]), (0.09, [None])])
def test_a_pose_below_an_oks_of_a_tenth_matches_nobody(similarity: float, expected: list[int | None]) -> None:
    pose = [[(miss(similarity, 100.0, 0.1), 0.0)]]
    assert match_poses(pose, [0.9], [[(0.0, 0.0)]], [[1]], [100.0], [0.1]) == expected
