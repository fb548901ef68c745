"""CrowdPose's average precision: COCO's over all images, and among easy, medium and crowded ones alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from hpe_tasks.datasets.kind import CrowdLevels
from hpe_tasks.metrics.coco_ap import PoseComparison
from hpe_tasks.records.evaluation import CrowdPoseStats

_OKS_50, _OKS_75 = 0, 5
"""Positions of these thresholds among 0.50, 0.55, …, 0.95."""

Rows = Sequence[Mapping[str, Any]]


def crowdpose_stats(
    truth: Rows,
    results: Rows,
    *,
    joints: Sequence[int],
    sigmas: Sequence[float],
    crowd_index: Mapping[int, float],
    levels: CrowdLevels,
) -> CrowdPoseStats:
    """Compute the nine statistics of CrowdPose over some of the joints.

    As `keypoints_crowd` of its authors' fork of the COCO API: at most 20 results of an image, no ranges of size. The
    levels of the crowd index are those of its paper; code that follows the fork draws the first line at 0.2.

    Args:
        truth: COCO annotations of persons, as `coco_stats` takes them; areas are 0.53 of the boxes.
        results: COCO results.
        joints: Indices of the joints that are compared.
        sigmas: OKS sigma of each of them.
        crowd_index: By image id, in [0, 1].
        levels: Where one level ends and the next begins.

    Raises:
        ValueError: As `coco_stats`.
    """
    if not joints or len(joints) != len(sigmas):
        raise ValueError(f"joints and sigmas must match and not be empty, not {len(joints)} and {len(sigmas)} long")

    def precision_and_recall(images: Collection[int]) -> tuple[Any, Any]:
        persons = [row for row in truth if row["image_id"] in images]
        found = [row for row in results if row["image_id"] in images]
        counted = PoseComparison(persons, found).evaluate(joints, sigmas, sizes=False).eval
        return counted["precision"], counted["recall"]

    precision, recall = precision_and_recall(crowd_index.keys())
    by_level = {
        level: {image for image, index in crowd_index.items() if levels.level(index) == level}
        for level in ("easy", "medium", "hard")
    }
    alone = {level: _mean(precision_and_recall(images)[0]) for level, images in by_level.items()}
    return CrowdPoseStats(
        ap=_mean(precision),
        ap50=_mean(precision[_OKS_50]),
        ap75=_mean(precision[_OKS_75]),
        ar=_mean(recall),
        ar50=_mean(recall[_OKS_50]),
        ar75=_mean(recall[_OKS_75]),
        ap_easy=alone["easy"],
        ap_medium=alone["medium"],
        ap_hard=alone["hard"],
    )


def _mean(values: Any) -> float | None:
    """The mean of what counts; COCOeval says -1 where no person does."""
    known = np.asarray(values)[np.asarray(values) >= 0]
    return float(known.mean()) if known.size else None
