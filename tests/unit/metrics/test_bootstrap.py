"""Resampled figures against pycocotools run again on images that are really there several times."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hpe_tasks.datasets import COCO as COCO_KIND
from hpe_tasks.metrics.bootstrap import draw_images, interval, paired_differences
from hpe_tasks.metrics.image_tables import (
    SIZES,
    WHOLE,
    HitTable,
    ImageTable,
    MatchTable,
    hit_table,
    match_table,
    read_table,
)
from hpe_tasks.metrics.oks import coco_stats
from hpe_tasks.metrics.pckh import NOT_IN_MEAN, PCKH_GROUPS, pckh_hits, pckh_stats
from hpe_tasks.pose.skeletons import MPII16

SIGMAS = tuple(COCO_KIND.sigmas.values())
ALL = tuple(range(17))
WRISTS = (9, 10)
PARTS = {WHOLE: (ALL, SIGMAS), "group/wrists": (WRISTS, [SIGMAS[j] for j in WRISTS])}
Rows = list[dict[str, Any]]


def truth_of(rng: np.random.Generator, images: int, per_image: int) -> Rows:
    """Crowds, persons without labels, persons of every size, several in one place, images with nobody."""
    rows: Rows = []
    for image in range(images):
        for _ in range(int(rng.integers(0, per_image + 1))):
            x, y, side = rng.uniform(0, 300), rng.uniform(0, 300), float(rng.choice([25, 60, 150]))
            labelled = rng.random(17) < rng.choice([0.0, 0.3, 0.9], p=[0.1, 0.3, 0.6])
            points = np.stack([rng.uniform(x, x + side, 17), rng.uniform(y, y + side, 17), labelled * 2.0], axis=1)
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "keypoints": (points * labelled[:, None]).ravel().tolist(),
                    "num_keypoints": int(labelled.sum()),
                    "bbox": [x, y, side, side],
                    "area": side * side * float(rng.choice([0.5, 1.0])),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
    return rows


def results_of(rng: np.random.Generator, truth: Rows, images: int, *, digits: int, extra: int) -> Rows:
    """Around the persons, better and worse, and elsewhere; scores of few digits are often equal."""
    rows: Rows = []
    for image in range(images):
        near = [row for row in truth if row["image_id"] == image]
        for row in [*near, *(rng.choice(len(truth), extra).tolist() if truth else [])]:
            source = row if isinstance(row, dict) else truth[row]
            points = np.reshape(source["keypoints"], (17, 3)).copy()
            points[:, :2] += rng.normal(0, rng.choice([0.5, 4.0, 15.0]), (17, 2))
            rows.append(
                {
                    "image_id": image,
                    "category_id": 1,
                    "keypoints": points.ravel().tolist(),
                    "score": round(float(rng.random()), digits),
                }
            )
    return rows


def replicated(rows: Rows, counts: np.ndarray) -> Rows:
    """Each image as often as it was drawn, under ids of its own, its copies side by side."""
    copies: Rows = []
    first = np.concatenate(([0], np.cumsum(counts)))
    for row in rows:
        for number in range(counts[row["image_id"]]):
            copies.append({**copy.deepcopy(row), "image_id": int(first[row["image_id"]]) + number})
    for number, row in enumerate(copies, start=1):
        if "iscrowd" in row:
            row["id"] = number
    return copies


def pycocotools_stats(truth: Rows, results: Rows, images: int, joints: tuple[int, ...]) -> list[float]:
    """AP, AP of medium and AP of large persons; NaN where pycocotools says -1."""
    truth, results = copy.deepcopy((truth, results))
    for row in truth:
        points = np.reshape(row["keypoints"], (17, 3))[list(joints)]
        row["keypoints"] = points.ravel().tolist()
        row["num_keypoints"] = int((points[:, 2] > 0).sum()) if row["num_keypoints"] else 0
    for row in results:
        row["keypoints"] = np.reshape(row["keypoints"], (17, 3))[list(joints)].ravel().tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        expected, found = COCO(), COCO()
        expected.dataset = {
            "images": [{"id": i} for i in range(images)],
            "annotations": truth,
            "categories": [{"id": 1, "name": "person"}],
        }
        expected.createIndex()
        found.dataset = {"annotations": []}
        if results:
            found = expected.loadRes(results)
        evaluation = COCOeval(expected, found, "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array([SIGMAS[j] for j in joints])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float("nan") if value < 0 else float(value) for value in evaluation.stats[[0, 3, 4]]]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 9),
    per_image=st.sampled_from([0, 1, 4, 24]),
    digits=st.sampled_from([0, 1, 8]),
    extra=st.sampled_from([0, 1, 5]),
)
def test_every_resample_equals_pycocotools_on_replicated_images(
    seed: int, images: int, per_image: int, digits: int, extra: int
) -> None:
    rng = np.random.default_rng(seed)
    truth = truth_of(rng, images, per_image)
    results = results_of(rng, truth, images, digits=digits, extra=extra)
    table = match_table(truth, results, PARTS, images=range(images), sizes=SIZES)
    draws = [np.ones(images, dtype=np.int32), *draw_images(images, 3, rng)]
    got = table.figures(np.array(draws, dtype=np.int32), table.parts)
    for number, counts in enumerate(draws):
        copies = replicated(truth, counts), replicated(results, counts), int(counts.sum())
        whole, medium, large = pycocotools_stats(*copies, ALL)
        wrists, _, _ = pycocotools_stats(*copies, WRISTS)
        found = {part: values[number] for part, values in got.items()}
        expected = {WHOLE: whole, "size/medium": medium, "size/large": large, "group/wrists": wrists}
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_an_image_that_is_drawn_often_counts_as_often() -> None:
    """More copies than results of equal score are told apart in by rows of their own."""
    rng = np.random.default_rng(3)
    truth = truth_of(rng, 2, 3)
    results = results_of(rng, truth, 2, digits=0, extra=2)
    counts = np.array([[2, 0], [0, 2], [1, 1]], dtype=np.int32)
    table = match_table(truth, results, {WHOLE: PARTS[WHOLE]}, images=range(2))
    expected = [
        pycocotools_stats(replicated(truth, row), replicated(results, row), int(row.sum()), ALL)[0] for row in counts
    ]
    assert table.figures(counts, (WHOLE,))[WHOLE] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_images_of_one_level_count_alone() -> None:
    rng = np.random.default_rng(5)
    truth = truth_of(rng, 6, 4)
    results = results_of(rng, truth, 6, digits=1, extra=2)
    table = match_table(truth, results, {WHOLE: PARTS[WHOLE]}, images=range(6), levels={"hard": (1, 4)})
    alone = [[row for row in rows if row["image_id"] in (1, 4)] for rows in (truth, results)]
    assert table.whole()["crowd/hard"] == pytest.approx(coco_stats(*alone, joints=ALL, sigmas=SIGMAS).ap, abs=1e-12)


def test_images_without_persons_and_results_are_drawn_too() -> None:
    rng = np.random.default_rng(1)
    truth = truth_of(rng, 3, 3)
    table = match_table(truth, [], {WHOLE: PARTS[WHOLE]}, images=range(7))
    assert len(table.images) == 7
    assert table.whole()[WHOLE] == 0.0
    nobody = np.array([[0, 0, 0, 1, 2, 3, 1]], dtype=np.int32)
    assert np.isnan(table.figures(nobody, (WHOLE,))[WHOLE]).all()


def test_a_result_in_an_image_that_was_not_measured_is_refused() -> None:
    truth = truth_of(np.random.default_rng(1), 3, 3)
    with pytest.raises(ValueError, match="not among those measured"):
        match_table(truth, [], {WHOLE: PARTS[WHOLE]}, images=[0])


def pckh_table(rng: np.random.Generator, persons: int = 30) -> tuple[HitTable, list[np.ndarray], np.ndarray]:
    scored = [
        rng.uniform(0, 100, (persons, 16, 2)),
        rng.uniform(0, 100, (persons, 16, 2)),
        (rng.random((persons, 16)) < 0.7) & (np.arange(16) != 3),
        np.stack([np.zeros((persons, 2)), rng.uniform(60, 90, (persons, 2))], axis=1),
    ]
    images = rng.integers(0, 12, persons)
    in_mean = tuple(i for i, joint in enumerate(MPII16.joints) if joint not in NOT_IN_MEAN)
    groups = {f"group/{name}": tuple(map(MPII16.joints.index, joints)) for name, joints in PCKH_GROUPS.items()}
    columns = {WHOLE: in_mean, **groups}
    return hit_table([f"{i:02}.jpg" for i in images], *pckh_hits(*scored), columns), scored, images


@pytest.mark.parametrize("seed", range(4))
def test_pckh_of_a_resample_is_that_of_its_persons(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, scored, images = pckh_table(rng)
    for counts in (np.ones(len(table.images), dtype=np.int32), *draw_images(len(table.images), 3, rng)):
        of_image = {int(name[:2]): int(count) for name, count in zip(table.images, counts, strict=True)}
        rows = np.repeat(np.arange(len(images)), [of_image[int(i)] for i in images])
        stats = pckh_stats(*(array[rows] for array in scored))
        got = {part: value[0] for part, value in table.figures(counts[None], table.parts).items()}
        expected = {WHOLE: stats.mean, **{f"group/{name}": getattr(stats, name) for name in PCKH_GROUPS}}
        assert got == pytest.approx(expected, abs=1e-9)


def two_tables(images: int = 40, *, worse: float = 3.0) -> tuple[MatchTable, MatchTable]:
    rng = np.random.default_rng(11)
    truth = truth_of(rng, images, 3)
    good = results_of(rng, truth, images, digits=8, extra=0)
    bad = copy.deepcopy(good)
    for row in bad:
        points = np.reshape(row["keypoints"], (17, 3))
        points[:, :2] += rng.normal(0, worse, (17, 2))
        row["keypoints"] = points.ravel().tolist()
    first, second = (match_table(truth, rows, PARTS, images=range(images), sizes=SIZES) for rows in (good, bad))
    return first, second


@pytest.mark.parametrize("kind", ["matches", "hits"])
def test_a_table_survives_its_file(kind: str) -> None:
    table: ImageTable = two_tables()[0] if kind == "matches" else pckh_table(np.random.default_rng(0))[0]
    content = table.to_bytes()
    again = read_table(content)
    assert again.parts == table.parts
    assert again.to_bytes() == content
    assert again.whole() == pytest.approx(table.whole(), nan_ok=True)


def test_joined_tables_are_the_table_of_all_images() -> None:
    rng = np.random.default_rng(2)
    truth = truth_of(rng, 9, 4)
    results = results_of(rng, truth, 9, digits=0, extra=3)

    def table(images: tuple[int, ...]) -> MatchTable:
        some, found = ([row for row in rows if row["image_id"] in images] for rows in (truth, results))
        return match_table(some, found, PARTS, images=images, sizes=SIZES, levels={"hard": [1, 4, 8]})

    assert table((1, 5, 6)).joined(table((0, 2, 3, 4, 7, 8))).to_bytes() == table(tuple(range(9))).to_bytes()
    with pytest.raises(ValueError, match="in common"):
        table((1, 2)).joined(table((2, 3)))


def test_joined_hits_are_those_of_all_images() -> None:
    table, scored, images = pckh_table(np.random.default_rng(6))
    right, labelled = pckh_hits(*scored)

    def some(chosen: np.ndarray) -> HitTable:
        return hit_table([f"{i:02}.jpg" for i in images[chosen]], right[chosen], labelled[chosen], table.columns)

    assert some(images % 3 == 0).joined(some(images % 3 != 0)).to_bytes() == table.to_bytes()


def test_a_file_that_is_no_table_is_refused() -> None:
    file = io.BytesIO()
    np.savez(file, something=np.zeros(3))
    for content in (b"", b"no archive", file.getvalue()):
        with pytest.raises(ValueError, match="no table of images"):
            read_table(content)


def test_both_models_are_counted_on_the_same_images() -> None:
    before, after = two_tables()
    assert set(paired_differences(before, before, resamples=50, seed=1)[WHOLE]) == {0.0}
    drawn = paired_differences(before, after, resamples=400, seed=1)
    apart = np.std(before.figures(draw_images(40, 400, np.random.default_rng(1)), (WHOLE,))[WHOLE])
    assert drawn[WHOLE].std() < 0.7 * apart  # What is hard for both falls out.
    assert drawn[WHOLE].mean() == pytest.approx(after.whole()[WHOLE] - before.whole()[WHOLE], abs=0.02)


def test_the_seed_decides_the_draws() -> None:
    before, after = two_tables()
    one, same, other = (paired_differences(before, after, resamples=300, seed=seed)[WHOLE] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_different_images_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="different images"):
        paired_differences(two_tables(40)[0], two_tables(39)[0], resamples=10, seed=0)


def test_an_interval_lies_between_its_tails() -> None:
    values = np.concatenate([np.arange(1000.0), [np.nan]])
    low, high = interval(values, 0.95) or (0.0, 0.0)
    assert (low, high) == (24.0, 975.0)
    assert interval(np.array([np.nan]), 0.95) is None
