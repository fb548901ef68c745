"""Object keypoint similarity: COCO's average precision, and the suppression of duplicate poses.

pycocotools is the reference for every number. Coordinates and areas are in (square) pixels of the image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

from hpe_tasks.results import CocoStats
from hpe_tasks.skeletons import COCO17

JOINT_GROUPS: dict[str, tuple[str, ...]] = {
    "head": ("nose", "left_eye", "right_eye", "left_ear", "right_ear"),
    "shoulders": ("left_shoulder", "right_shoulder"),
    "elbows": ("left_elbow", "right_elbow"),
    "wrists": ("left_wrist", "right_wrist"),
    "hips": ("left_hip", "right_hip"),
    "knees": ("left_knee", "right_knee"),
    "ankles": ("left_ankle", "right_ankle"),
}
"""Joints whose accuracy is reported together."""

_CATEGORY = 1


def coco_sigmas() -> dict[str, float]:
    """Give the OKS sigma of each COCO joint, as `COCOeval` has them."""
    sigmas = Params(iouType="keypoints").kpt_oks_sigmas
    return {joint: float(sigma) for joint, sigma in zip(COCO17.joints, sigmas, strict=True)}


def coco_stats(
    truth: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    *,
    joints: Sequence[int],
    sigmas: Sequence[float],
) -> CocoStats:
    """Compute the ten COCO keypoint statistics over some of the joints.

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
        ValueError: `joints` is empty or differs in length from `sigmas`.
    """
    if not joints or len(joints) != len(sigmas):
        raise ValueError(f"joints and sigmas must match and not be empty, not {len(joints)} and {len(sigmas)} long")
    annotations = [_restricted_annotation(row, joints, number) for number, row in enumerate(truth, start=1)]
    detections = [_restricted_result(row, joints) for row in results]
    image_ids = sorted({row["image_id"] for row in (*annotations, *detections)})

    # pycocotools reports its progress on stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        expected = COCO()
        expected.dataset = {
            "images": [{"id": image_id} for image_id in image_ids],
            "annotations": annotations,
            "categories": [{"id": _CATEGORY, "name": "person"}],
        }
        expected.createIndex()
        if not detections:
            return _without_detections(annotations)
        evaluation = COCOeval(expected, expected.loadRes(detections), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=np.float64)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # COCOeval says -1 where no person counts.
    stats = [None if value < 0 else float(value) for value in evaluation.stats]
    return CocoStats(**dict(zip(CocoStats.model_fields, stats, strict=True)))


def _restricted_annotation(row: Mapping[str, Any], joints: Sequence[int], number: int) -> dict[str, Any]:
    """The annotation over `joints` alone. Numbered anew: pycocotools takes the id 0 for "not matched"."""
    keypoints = np.zeros((len(joints), 3))
    if row.get("keypoints"):
        keypoints = np.asarray(row["keypoints"], dtype=np.float64).reshape(-1, 3)[list(joints)]
    labelled = int(np.count_nonzero(keypoints[:, 2] > 0)) if row.get("num_keypoints", 0) else 0
    return {
        "id": number,
        "image_id": row["image_id"],
        "category_id": _CATEGORY,
        "keypoints": keypoints.ravel().tolist(),
        "num_keypoints": labelled,
        "bbox": [float(value) for value in row.get("bbox") or (0, 0, 0, 0)],
        "area": float(row.get("area") or 0),
        "iscrowd": int(row.get("iscrowd") or 0),
    }


def _restricted_result(row: Mapping[str, Any], joints: Sequence[int]) -> dict[str, Any]:
    keypoints = np.asarray(row["keypoints"], dtype=np.float64).reshape(-1, 3)[list(joints)]
    return {
        "image_id": row["image_id"],
        "category_id": _CATEGORY,
        "keypoints": keypoints.ravel().tolist(),
        "score": float(row["score"]),
    }


def _without_detections(annotations: Sequence[Mapping[str, Any]]) -> CocoStats:
    """Every person that counts is missed; `COCO.loadRes` refuses an empty list."""
    areas = Params(iouType="keypoints")
    persons = [row["area"] for row in annotations if row["num_keypoints"] and not row["iscrowd"]]

    def missed(label: str) -> float | None:
        low, high = areas.areaRng[areas.areaRngLbl.index(label)]
        return 0.0 if any(low <= area <= high for area in persons) else None

    everyone, medium, large = missed("all"), missed("medium"), missed("large")
    return CocoStats(
        ap=everyone,
        ap50=everyone,
        ap75=everyone,
        ap_medium=medium,
        ap_large=large,
        ar=everyone,
        ar50=everyone,
        ar75=everyone,
        ar_medium=medium,
        ar_large=large,
    )


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
    keypoints: ArrayLike, scores: ArrayLike, areas: ArrayLike, sigmas: ArrayLike, *, threshold: float
) -> list[int]:
    """Keep the best of the poses that show the same person: non-maximum suppression by OKS.

    The area of a pair is the mean of both, as in Simple Baselines.

    Args:
        keypoints: N×K×2, the poses of one image.
        scores: N; the earlier pose goes first among equals.
        areas: N, in square pixels.
        sigmas: K.
        threshold: A pose goes when its similarity with a better one is above this.

    Returns:
        Indices of the poses that stay, best first.
    """
    poses = np.asarray(keypoints, dtype=np.float64)
    extents = np.asarray(areas, dtype=np.float64)
    remaining = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    kept: list[int] = []
    while remaining.size:
        best, rest = remaining[0], remaining[1:]
        kept.append(int(best))
        similar = oks(poses[best], poses[rest], (extents[best] + extents[rest]) / 2, sigmas)
        remaining = rest[similar <= threshold]
    return kept
