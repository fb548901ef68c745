"""The persons of a split and the poses that a network found, in one form for either kind of data set.

Coordinates are (x, y) in pixels of the image, counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hpe_tasks.data.dataset import ImageKey, Subject
from hpe_tasks.data.splits import load_split
from hpe_tasks.metrics.oks import oks
from hpe_tasks.pose.skeletons import Skeleton
from hpe_tasks.records.evaluation import ProtocolFingerprint


@dataclass(frozen=True)
class PredictedPose:
    """One entry of a predictions file: K×2 pixels of the image, K scores; a joint that was not found has score 0."""

    joints: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What one network found.

    Attributes:
        persons: The pose of each person who was found, by annotation id, or number in MPII's file.
        images: All poses of an image, those of people who are not annotated as well.
    """

    persons: Mapping[int, PredictedPose]
    images: Mapping[ImageKey, tuple[PredictedPose, ...]]


@dataclass(frozen=True)
class Truth:
    """The annotated persons of a split.

    Attributes:
        size_name: What `Subject.size` is.
        agreement: What stands beside a drawn pose, in words.
    """

    subjects: tuple[Subject, ...]
    skeleton: Skeleton
    size_name: str
    agreement: str


def read_truth(kind: str, root: Path, split: str) -> Truth:
    """The persons of a split; raises DatasetError when its annotations cannot be used."""
    dataset = load_split(kind, root, split)
    return Truth(dataset.subjects(), dataset.skeleton, dataset.size_name, dataset.kind.agreement)


def read_predictions(path: Path) -> Predictions:
    """The poses that an evaluation has written; of several for one person, the one with the best score."""
    best: dict[int, float] = {}
    persons: dict[int, PredictedPose] = {}
    images: dict[ImageKey, list[PredictedPose]] = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        joints = np.asarray(row["keypoints"], dtype=np.float64).reshape(-1, 3)
        pose = PredictedPose(joints[:, :2], joints[:, 2])
        of_mpii = "image" in row
        images.setdefault(row["image"] if of_mpii else row["image_id"], []).append(pose)
        number = row["person"] if of_mpii else row["annotation_id"]
        score = row.get("score", 0.0)
        if number is not None and score > best.get(number, -np.inf):
            best[number], persons[number] = score, pose
    return Predictions(persons, {image: tuple(poses) for image, poses in images.items()})


def agreement_text(subject: Subject, pose: PredictedPose, protocol: ProtocolFingerprint) -> str:
    """How well a pose fits the truth over the labelled joints that are compared: OKS, or the distance in heads."""
    joints = np.array([index for _, _, index in protocol.joint_map], dtype=np.intp)
    labelled = subject.labelled[joints]
    if not labelled.any():
        return "no labelled joint"
    here = joints[labelled]
    if not protocol.sigmas:
        distances = np.linalg.norm(pose.joints[here] - subject.joints[here], axis=1)
        return f"{distances.mean() / subject.size:.2f} heads off"
    sigmas = np.array(protocol.sigmas)[labelled]
    return f"OKS {oks(pose.joints[here], subject.joints[None, here], subject.size**2, sigmas)[0]:.3f}"
