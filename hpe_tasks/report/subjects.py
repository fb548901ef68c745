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

from hpe_tasks.config.run import DatasetKind
from hpe_tasks.data.coco import CocoKeypoints
from hpe_tasks.data.mpii import FIRST_PIXEL, MpiiKeypoints, load_truth
from hpe_tasks.data.splits import load_split
from hpe_tasks.metrics.oks import oks
from hpe_tasks.metrics.pckh import HEAD_FACTOR
from hpe_tasks.pose.skeletons import COCO17, MPII16, Skeleton
from hpe_tasks.records import ProtocolFingerprint

ImageKey = int | str
"""COCO's image id, or MPII's file name."""

# Room around an MPII person's joints, in heads: their extent ends at the ankles and at the top of the head.
_AROUND_JOINTS = 0.5


@dataclass(frozen=True)
class PredictedPose:
    """One entry of a predictions file: K×2 pixels of the image, K scores; a joint that was not found has score 0."""

    keypoints: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What one network found.

    Attributes:
        persons: The pose of each person who was found, by annotation id, or number in MPII's file.
        images: All poses of an image, those of nobody annotated as well.
    """

    persons: Mapping[int, PredictedPose]
    images: Mapping[ImageKey, tuple[PredictedPose, ...]]


@dataclass(frozen=True, eq=False)
class Subject:
    """An annotated person.

    Attributes:
        number: Annotation id, or number in MPII's file.
        caption: Says which person in which image this is.
        keypoints: K×2; meaningless where not labelled.
        box: (x, y, w, h), about what the person covers.
        size: The measure that distances are told in: the square root of COCO's area, or MPII's size of the head.
    """

    number: int
    image: ImageKey
    path: Path
    caption: str
    keypoints: npt.NDArray[np.float64]
    labelled: npt.NDArray[np.bool_]
    box: tuple[float, float, float, float]
    size: float


@dataclass(frozen=True)
class Truth:
    """The annotated persons of a split.

    Attributes:
        size_name: What `Subject.size` is.
    """

    kind: DatasetKind
    subjects: tuple[Subject, ...]
    skeleton: Skeleton
    size_name: str


def read_truth(kind: DatasetKind, root: Path, split: str) -> Truth:
    """The persons of a split; raises DatasetError when its annotations cannot be used."""
    dataset = load_split(kind, root, split)
    return _of_mpii(dataset) if isinstance(dataset, MpiiKeypoints) else _of_coco(dataset)


def _of_coco(dataset: CocoKeypoints) -> Truth:
    subjects = tuple(
        Subject(
            number=person.annotation_id,
            image=image.id,
            path=dataset.image_path(image),
            caption=f"Image {image.id}, {image.file_name}, annotation {person.annotation_id}",
            keypoints=person.keypoints[:, :2].astype(np.float64),
            labelled=person.keypoints[:, 2] > 0,
            box=person.box,
            size=float(np.sqrt(max(person.area, 1.0))),
        )
        for image in dataset.images
        for person in dataset.persons(image.id)
    )
    skeleton = Skeleton(name="dataset", joints=dataset.keypoint_names, limbs=COCO17.limbs)
    return Truth("coco", subjects, skeleton, "person's size (√area)")


def _of_mpii(dataset: MpiiKeypoints) -> Truth:
    boxes = load_truth(dataset).head_boxes
    heads = HEAD_FACTOR * np.linalg.norm(boxes[:, 1] - boxes[:, 0], axis=1)
    subjects = []
    for person, head in zip(dataset.persons, heads.tolist(), strict=True):
        points = person.joints - FIRST_PIXEL
        if not person.visible.any():
            continue
        low = points[person.visible].min(axis=0) - _AROUND_JOINTS * head
        width, height = points[person.visible].max(axis=0) + _AROUND_JOINTS * head - low
        subjects.append(
            Subject(
                number=person.index,
                image=person.image,
                path=dataset.image_path(person),
                caption=f"{person.image}, person {person.index} of the annotation file",
                keypoints=points,
                labelled=person.visible,
                box=(float(low[0]), float(low[1]), float(width), float(height)),
                size=head,
            )
        )
    return Truth("mpii", tuple(subjects), MPII16, "size of the head")


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


def agreement_text(truth: Truth, subject: Subject, pose: PredictedPose, protocol: ProtocolFingerprint) -> str:
    """How well a pose fits the truth over the labelled joints that are compared: OKS, or the distance in heads."""
    joints = np.array([index for _, _, index in protocol.joint_map], dtype=np.intp)
    labelled = subject.labelled[joints]
    if not labelled.any():
        return "no labelled joint"
    here = joints[labelled]
    if truth.kind == "mpii":
        distances = np.linalg.norm(pose.keypoints[here] - subject.keypoints[here], axis=1)
        return f"{distances.mean() / subject.size:.2f} heads off"
    sigmas = np.array(protocol.sigmas)[labelled]
    return f"OKS {oks(pose.keypoints[here], subject.keypoints[None, here], subject.size**2, sigmas)[0]:.3f}"
