"""PCKh: the share of joints that lie within a fraction of the head's size of the truth, as MPII is scored.

Source: Andriluka et al., "2D Human Pose Estimation: New Benchmark and State of the Art Analysis" (2014), and the
evaluation of Simple Baselines, whose published figures this reproduces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpe_tasks.pose.skeletons import MPII16
from hpe_tasks.records.evaluation import PckhStats

THRESHOLD = 0.5
"""Fraction of the head's size within which a joint is right: PCKh@0.5."""

HEAD_FACTOR = 0.6
"""The head's size is this share of the diagonal of its box."""

PUBLISHED_01_THRESHOLD = 0.11
"""What the reference computes its column "Mean@0.1" at: element 11 of the thresholds 0, 0.01, …, 0.5."""

EXACT_01_THRESHOLD = 0.1

NOT_IN_MEAN = ("pelvis", "thorax")
"""Joints that the means leave out."""

PCKH_GROUPS: dict[str, tuple[str, ...]] = {
    "head": ("head_top",),
    "shoulder": ("left_shoulder", "right_shoulder"),
    "elbow": ("left_elbow", "right_elbow"),
    "wrist": ("left_wrist", "right_wrist"),
    "hip": ("left_hip", "right_hip"),
    "knee": ("left_knee", "right_knee"),
    "ankle": ("left_ankle", "right_ankle"),
}
"""Joints that are reported together, in the order of the published tables."""

_JOINTS = len(MPII16.joints)


def pckh_stats(predictions: ArrayLike, truth: ArrayLike, visible: ArrayLike, head_boxes: ArrayLike) -> PckhStats:
    """Compute the columns of an MPII results table, in percent.

    A joint is right when its distance to the truth, divided by the size of the person's head, is at most 0.5; the
    head's size is 0.6 times the diagonal of its box. Joints come in the order of `MPII16`. `head`, `shoulder`, …,
    `ankle` are the mean of the left and the right joint's percentages; `mean` weighs every joint by how often it is
    labelled and leaves out pelvis and thorax.

    **`mean_at_01` is computed at the threshold 0.11**: what the literature prints as "Mean@0.1" is the reference's
    element 11 of the thresholds 0, 0.01, …, so it is kept under that name, to be comparable. `mean_at_exactly_01`
    is the mean at 0.1. Both are over the same joints as `mean`.

    A group of which one side is nowhere labelled is that of the other side; the reference gives NaN there.

    Args:
        predictions: N×16×2, in pixels.
        truth: N×16×2, in the same pixels: both counted from 0, or both from 1.
        visible: N×16; joints with 0 are not labelled, or not to be compared.
        head_boxes: N×2×2, the two opposite corners (x, y) of each head's box, in pixels.

    Raises:
        ValueError: The shapes do not fit each other; a number is not finite; a head has no size.
    """
    distances, compared = _distances(predictions, truth, visible, head_boxes)
    percentages = _percentages(distances, compared, THRESHOLD)
    in_mean = np.array([joint not in NOT_IN_MEAN for joint in MPII16.joints])
    counted = compared & in_mean
    return PckhStats(
        **{group: _group(percentages, joints) for group, joints in PCKH_GROUPS.items()},
        mean=_mean(distances, counted, THRESHOLD),
        mean_at_01=_mean(distances, counted, PUBLISHED_01_THRESHOLD),
        mean_at_exactly_01=_mean(distances, counted, EXACT_01_THRESHOLD),
        num_joints=int(counted.sum()),
    )


def pckh_by_joint(
    predictions: ArrayLike, truth: ArrayLike, visible: ArrayLike, head_boxes: ArrayLike
) -> dict[str, float | None]:
    """Compute PCKh@0.5 of each joint of `MPII16` in percent; None where no person has it labelled.

    Pelvis and thorax are among them, though no column of `pckh_stats` counts them. Arguments and errors are those of
    `pckh_stats`.
    """
    distances, compared = _distances(predictions, truth, visible, head_boxes)
    return dict(zip(MPII16.joints, _percentages(distances, compared, THRESHOLD), strict=True))


def pckh_hits(
    predictions: ArrayLike, truth: ArrayLike, visible: ArrayLike, head_boxes: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which joints are right at PCKh@0.5, and which count, N×16 each: what `pckh_stats` sums up, with its errors."""
    distances, compared = _distances(predictions, truth, visible, head_boxes)
    return (distances <= THRESHOLD) & compared, compared


def _distances(
    predictions: ArrayLike, truth: ArrayLike, visible: ArrayLike, head_boxes: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Distances in sizes of the head, N×16, and which of them count."""
    found = np.asarray(predictions, dtype=np.float64)
    expected = np.asarray(truth, dtype=np.float64)
    compared = np.asarray(visible) > 0
    boxes = np.asarray(head_boxes, dtype=np.float64)
    _check(found, expected, compared, boxes)
    heads = HEAD_FACTOR * np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1)
    # What is not labelled may hold anything, NaN as well.
    offsets = np.where(compared[..., None], found - expected, 0.0)
    return np.linalg.norm(offsets, axis=2) / heads[:, None], compared


def _check(
    found: NDArray[np.float64], expected: NDArray[np.float64], compared: NDArray[np.bool_], boxes: NDArray[np.float64]
) -> None:
    count = len(compared)
    for name, array, shape in (
        ("predictions", found, (count, _JOINTS, 2)),
        ("truth", expected, (count, _JOINTS, 2)),
        ("visible", compared, (count, _JOINTS)),
        ("head_boxes", boxes, (count, 2, 2)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} must be {'×'.join(map(str, shape))}, not {'×'.join(map(str, array.shape))}")
    if not (np.isfinite(found[compared]).all() and np.isfinite(expected[compared]).all()):
        raise ValueError("predictions and truth must be finite where a joint is labelled")
    if not (np.isfinite(boxes).all() and (boxes[:, 0] != boxes[:, 1]).any(axis=1).all()):
        raise ValueError("every head box must be finite and have a size")


def _percentages(distances: NDArray[np.float64], compared: NDArray[np.bool_], threshold: float) -> list[float | None]:
    """Of each joint, over the persons in whom it is compared."""
    right = ((distances <= threshold) & compared).sum(axis=0)
    return [100.0 * float(r) / float(n) if n else None for r, n in zip(right, compared.sum(axis=0), strict=True)]


def _group(percentages: list[float | None], joints: tuple[str, ...]) -> float | None:
    sides = [percentages[MPII16.joints.index(joint)] for joint in joints]
    known = [side for side in sides if side is not None]
    return sum(known) / len(known) if known else None


def _mean(distances: NDArray[np.float64], counted: NDArray[np.bool_], threshold: float) -> float | None:
    """Weighing joints by how often they are compared is counting all of them alike."""
    total = int(counted.sum())
    return 100.0 * int(((distances <= threshold) & counted).sum()) / total if total else None
