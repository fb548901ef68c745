"""Poses of all people in whole images, as OpenPose and the AIMET model zoo find them."""

from __future__ import annotations

import numpy as np

from hpe_tasks.evaluation.coco import Found, FoundPose, Measured
from hpe_tasks.evaluation.request import EvaluationRequest, FailedImages
from hpe_tasks.evaluation.shards import read_people
from hpe_tasks.inference import find_people
from hpe_tasks.progress import track


def find_poses(measured: Measured, request: EvaluationRequest, failed: FailedImages) -> Found:
    """Find all people in the measured images; the score of a joint is 1 where it was found, else 0.

    Raises:
        DatasetError: Too many images cannot be read, or have another size than their records say.
        CheckpointError: The network's output does not fit the model's codec.
    """
    channels = measured.channels
    if request.shards is None:
        size = request.evaluation.batch_size
        images = find_people(measured.dataset, request.predict, request.model, size, failed.add)
    else:
        images = read_people(measured.dataset, request.shards, failed)
    poses = []
    for found in track(images, request.title, total=len(measured.dataset.images), unit="images"):
        people = found.people
        poses += [
            FoundPose(found.image.id, points, seen.astype(np.float32), float(score))
            for points, seen, score in zip(
                people.joints[:, channels], people.found[:, channels], people.scores, strict=True
            )
            if seen.any()
        ]
    return Found(poses, len(measured.dataset.images))
