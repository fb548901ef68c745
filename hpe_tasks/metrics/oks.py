"""Object keypoint similarity: COCO's average precision, and the suppression of duplicate poses.

pycocotools is the reference for every number. Coordinates and areas are in (square) pixels of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpe_tasks.datasets import COCO
from hpe_tasks.metrics.coco_ap import PoseComparison
from hpe_tasks.records.evaluation import CocoStats

MATCHING_OKS = 0.1
"""A found pose that is less similar than this to every annotated person shows none of them."""


def coco_sigmas() -> dict[str, float]:
    """Give the OKS sigma of each COCO joint, as `COCOeval` has them."""
    return dict(COCO.sigmas)


def coco_stats(
    truth: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    *,
    joints: Sequence[int],
    sigmas: Sequence[float],
) -> CocoStats:
    """Compute the ten statistics of COCO over some of the joints.

    Truth and results are restricted to `joints`. An annotation that is a crowd, that its file calls unlabelled
    (`num_keypoints` 0), or that has none of these joints labelled is ignored, not missed; areas stay those of the
    whole person.

    Args:
        truth: COCO annotations of persons: `image_id`, `keypoints` (x, y, v for each joint), `bbox`, `area`,
            `num_keypoints`, `iscrowd`; what an ignored annotation lacks counts as zero.
        results: COCO results: `image_id`, `keypoints` as in the truth, `score`.
        joints: Indices of the joints that are compared.
        sigmas: OKS sigma of each of them.

    Raises:
        ValueError: `joints` is empty or differs in length from `sigmas`; poses differ in their number of joints; a
            joint or the score of a result is not a finite number.
    """
    _check_joints(joints, sigmas)
    evaluation = PoseComparison(truth, results).evaluate(joints, sigmas, sizes=True)
    evaluation.summarize()
    # COCOeval says -1 where no person counts.
    stats = [None if value < 0 else float(value) for value in evaluation.stats]
    return CocoStats(**dict(zip(CocoStats.model_fields, stats, strict=True)))


def coco_breakdown(
    truth: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    parts: Mapping[str, tuple[Sequence[int], Sequence[float]]],
) -> dict[str, float | None]:
    """Compute the AP over each of several sets of joints: `coco_stats(...).ap` of each, in a fraction of the time.

    Args:
        truth: COCO annotations, as `coco_stats` takes them.
        results: COCO results.
        parts: By name, the indices of the joints that are compared and the OKS sigma of each of them.

    Raises:
        ValueError: As `coco_stats`.
    """
    for joints, sigmas in parts.values():
        _check_joints(joints, sigmas)
    comparison = PoseComparison(truth, results)
    breakdown: dict[str, float | None] = {}
    for name, (joints, sigmas) in parts.items():
        precision = comparison.evaluate(joints, sigmas, sizes=False).eval["precision"]
        # COCOeval says -1 where no person counts.
        known = precision[precision >= 0]
        breakdown[name] = float(known.mean()) if known.size else None
    return breakdown


def _check_joints(joints: Sequence[int], sigmas: Sequence[float]) -> None:
    if not joints or len(joints) != len(sigmas):
        raise ValueError(f"joints and sigmas must match and not be empty, not {len(joints)} and {len(sigmas)} long")


def oks(pose: ArrayLike, others: ArrayLike, areas: ArrayLike, sigmas: ArrayLike) -> NDArray[np.float64]:
    """Compute the object keypoint similarity of one pose with others, over all joints.

    OKS is the mean over joints of exp(-d² / (2·area·(2·sigma)²)).

    Args:
        pose: K×2.
        others: N×K×2.
        areas: N, in square pixels, or one number for all.
        sigmas: K.

    Returns:
        N similarities in [0, 1].
    """
    distances = ((np.asarray(others, dtype=np.float64) - np.asarray(pose, dtype=np.float64)) ** 2).sum(axis=-1)
    variances = (2 * np.asarray(sigmas, dtype=np.float64)) ** 2
    extents = np.asarray(areas, dtype=np.float64)[..., None] + np.spacing(1)
    similarity: NDArray[np.float64] = np.exp(-distances / variances / extents / 2).mean(axis=-1)
    return similarity


def suppress_duplicates(
    joints: ArrayLike, scores: ArrayLike, areas: ArrayLike, sigmas: ArrayLike, *, threshold: float
) -> list[int]:
    """Keep the best of the poses that show the same person: non-maximum suppression by OKS.

    The area of a pair is the mean of both, as in Simple Baselines.

    Args:
        joints: N×K×2, the poses of one image.
        scores: N; the earlier pose goes first among equals.
        areas: N, in square pixels.
        sigmas: K.
        threshold: A pose goes when its similarity with a better one is above this.

    Returns:
        Indices of the poses that stay, best first.
    """
    poses = np.asarray(joints, dtype=np.float64)
    extents = np.asarray(areas, dtype=np.float64)
    remaining = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    kept: list[int] = []
    while remaining.size:
        best, rest = remaining[0], remaining[1:]
        kept.append(int(best))
        similar = oks(poses[best], poses[rest], (extents[best] + extents[rest]) / 2, sigmas)
        remaining = rest[similar <= threshold]
    return kept


def match_poses(
    found: ArrayLike, scores: ArrayLike, truth: ArrayLike, visible: ArrayLike, areas: ArrayLike, sigmas: ArrayLike
) -> list[int | None]:
    """Find the annotated person that each found pose of an image shows.

    Poses choose by falling score, the earlier first among equals; each takes the person with the highest OKS, over
    the joints that are labelled, among those whom no better pose has taken.

    Args:
        found: N×K×2, the poses of one image.
        scores: N.
        truth: M×K×2.
        visible: M×K; joints with 0 are not labelled. A person without labelled joints matches none.
        areas: M, in square pixels.
        sigmas: K.

    Returns:
        For each pose the index of its person; None where no free person has an OKS of at least 0.1 with it.
    """
    poses, persons = np.asarray(found, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    labelled = np.asarray(visible) > 0
    matches: list[int | None] = [None] * len(poses)
    if not len(persons):
        return matches
    distances = ((poses[:, None] - persons) ** 2).sum(axis=-1)
    variances = (2 * np.asarray(sigmas, dtype=np.float64)) ** 2
    extents = np.asarray(areas, dtype=np.float64)[:, None] + np.spacing(1)
    similar = (np.exp(-distances / variances / extents / 2) * labelled).sum(axis=-1) / np.maximum(
        labelled.sum(axis=-1), 1
    )
    for pose in np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable"):
        best = int(similar[pose].argmax())
        if similar[pose, best] >= MATCHING_OKS:
            matches[pose] = best
            similar[:, best] = 0.0
    return matches
