"""Poses of all people in whole images, as OpenPose and the AIMET model zoo find them."""

from __future__ import annotations

import numpy as np

from hpe_tasks.evaluation.coco import Found, FoundPose, Measured
from hpe_tasks.evaluation.request import FailedImages, Request
from hpe_tasks.inference import find_people
from hpe_tasks.progress import track

DECODER = (
    "part-affinity fields: peaks above 0.1 in heatmaps of the image's size smoothed with sigma 3, limbs taken "
    "greedily, people of at least 4 joints; person score: the sum of joint and limb scores over the COCO joints found"
)


def find_poses(measured: Measured, request: Request, failed: FailedImages) -> Found:
    """Find all people in the measured images; the score of a joint is 1 where it was found, else 0.

    Raises:
        DatasetError: Too many images cannot be read, or have another size than their records say.
        CheckpointError: The network's output does not fit codec `paf`.
    """
    channels = measured.channels
    images = find_people(
        measured.dataset, request.predict, request.model, request.evaluation.batch_size, unreadable=failed.add
    )
    poses = []
    for found in track(images, request.title, total=len(measured.dataset.images), unit="images"):
        people = found.people
        poses += [
            FoundPose(found.image.id, keypoints, joints.astype(np.float32), float(score))
            for keypoints, joints, score in zip(
                people.keypoints[:, channels], people.found[:, channels], people.scores, strict=True
            )
            if joints.any()
        ]
    return Found(poses, len(measured.dataset.images))
