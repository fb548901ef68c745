"""What MPII predictions are compared with: `annot/gt_<split>.mat`, checked against the split's annotations."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.data.mpii.annotations import MpiiDataset, read_records
from hpe_tasks.data.mpii.mat import MpiiMat, load_mpii_mat
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.skeletons import MPII16

# Both files write the same clicks, one as decimals and one as float64: they agree far better than this, in pixels.
_SAME = 0.25

# Further apart, in pixels, than rounding of either file explains.
_ELSEWHERE = 2.0

_NECK, _HEAD_TOP = MPII16.joints.index("upper_neck"), MPII16.joints.index("head_top")

log = logging.getLogger(__name__)


def load_truth(dataset: MpiiDataset) -> MpiiMat:
    """Read what the split's persons are compared with, and check that both files speak of the same thing.

    Three independent records of the same pixels must agree: the joints of the .json file, those of the .mat file, and
    the head boxes, whose centre is by construction half-way between `upper_neck` and `head_top`. When two of them are
    apart by the same single pixel, one was converted to count from 0 and the other was not. The median over the
    persons decides, so that corrected records do no harm. Where most persons have joints elsewhere, the files are of
    different persons. Any other difference is logged, and the .mat file is then right, as in the reference.

    Returns:
        The persons of `dataset`, in its order.

    Raises:
        DatasetError: The .mat file cannot be used; it speaks of other persons than the .json file; or one of them
            counts pixels from 0.
    """
    path = dataset.truth_file
    everyone = load_mpii_mat(path)
    indices = [person.index for person in dataset.persons]
    listed = len(read_records(dataset.annotation_file))
    if everyone.count != listed:
        raise DatasetError(
            f"{path} holds {everyone.count} persons, but {dataset.annotation_file.name} lists {listed}.",
            hint="Give the two files of one split: they list the same persons in the same order.",
        )
    mat = everyone.select(indices)
    joints = np.stack([person.joints for person in dataset.persons])
    visible = np.stack([person.visible for person in dataset.persons])
    _check_agreement(dataset, joints, visible, mat)
    _check_head_boxes(path, mat)
    return mat


def _check_agreement(
    dataset: MpiiDataset, joints: NDArray[np.float64], visible: NDArray[np.bool_], mat: MpiiMat
) -> None:
    both = visible & mat.visible
    names = f"{dataset.annotation_file.name} and {dataset.truth_file.name} of {dataset.root}"
    offset = np.median((joints - mat.joints)[both], axis=0) if both.any() else np.full(2, np.nan)
    for value, wrong in ((-1.0, dataset.annotation_file), (1.0, dataset.truth_file)):
        if (np.abs(offset - value) < _SAME).all():
            raise _from_zero(wrong, f"its joints are those of the other file, each less by one pixel ({names})")
    apart = np.where(both, np.abs(joints - mat.joints).max(axis=2), 0)
    differing = (visible != mat.visible).any(axis=1) | (apart > _SAME).any(axis=1)
    if not differing.any():
        return
    first = dataset.persons[int(differing.argmax())]
    message = (
        f"{names} disagree about {int(differing.sum())} of {len(joints)} persons, first about number {first.index} "
        f"({first.image}): other joints are labelled, or lie elsewhere."
    )
    if (apart > _ELSEWHERE).any(axis=1).mean() > 0.5:
        raise DatasetError(
            message, hint="Give the two files of one split: they list the same persons in the same order."
        )
    log.warning("%s The .mat file is used.", message)


def _check_head_boxes(path: Path, mat: MpiiMat) -> None:
    heads = mat.visible[:, _NECK] & mat.visible[:, _HEAD_TOP]
    if not heads.any():
        return
    middles = (mat.joints[heads, _NECK] + mat.joints[heads, _HEAD_TOP]) / 2
    offset = np.median(middles - mat.head_boxes[heads].mean(axis=1), axis=0)
    for value, what in ((-1.0, "pos_gt_src"), (1.0, "headboxes_src")):
        if (np.abs(offset - value) < _SAME).all():
            raise _from_zero(path, f"{what} is less by one pixel than the file's other pixels")


def _from_zero(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"{path} counts pixels from 0, where MPII counts from 1: {reason}.",
        hint="Give the original file, or add 1 to its coordinates.",
    )
