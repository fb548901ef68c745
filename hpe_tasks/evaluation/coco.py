"""COCO's side of an evaluation: who is measured on which joints, the results file and its score.

Where poses come from, crops or whole images, does not matter here.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.data.annotation_files import person_category, read_annotations
from hpe_tasks.data.coco import CocoDataset, Person
from hpe_tasks.datasets import MetricName
from hpe_tasks.errors import ConfigError, DatasetError
from hpe_tasks.evaluation.crop_joints import CropJoints
from hpe_tasks.evaluation.request import EvaluationRequest, JointMap, PredictionRequest, draw
from hpe_tasks.metrics.crowdpose import crowdpose_stats
from hpe_tasks.metrics.image_tables import SIZES, WHOLE, MatchTable, match_table
from hpe_tasks.metrics.oks import coco_breakdown, coco_stats, match_poses
from hpe_tasks.pose.skeletons import common_joints
from hpe_tasks.records.evaluation import ScoreSpread, Stats
from hpe_tasks.storage.files import write_atomically

# Digits kept in the predictions file: a thousandth of a pixel is far below what OKS resolves.
_DIGITS = 3

_TRUTH_FIELDS = ("id", "image_id", "keypoints", "num_keypoints", "bbox", "area", "iscrowd")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Measured:
    """What a split is measured on.

    Attributes:
        dataset: The measured images.
        persons: Their persons who have a compared joint labelled.
        subset: Whether the images were drawn by seed from more.
        available_images: How many there are to draw from.
        joint_map: The compared joints.
    """

    dataset: CocoDataset
    persons: tuple[Person, ...]
    subset: bool
    available_images: int
    joint_map: JointMap

    @cached_property
    def _truth(self) -> tuple[int, tuple[dict[str, Any], ...]]:
        return read_truth(self.dataset)

    def read(self) -> None:
        """Read the truth, before it is asked for."""
        self._truth  # noqa: B018

    @property
    def category_id(self) -> int:
        """Of persons, in the annotation file."""
        return self._truth[0]

    @property
    def truth(self) -> tuple[dict[str, Any], ...]:
        """All annotations of persons in the images, with those that the metric ignores; read when first asked for."""
        return self._truth[1]

    @property
    def channels(self) -> list[int]:
        """Of the model, one for each compared joint."""
        return [channel for _, channel, _ in self.joint_map]

    @property
    def numbers(self) -> list[int]:
        """Of the data set's joints, one for each compared joint."""
        return [number for _, _, number in self.joint_map]

    @property
    def sigmas(self) -> tuple[float, ...]:
        """OKS sigma of each compared joint."""
        return tuple(self.dataset.sigmas[joint] for joint, _, _ in self.joint_map)


@dataclass(frozen=True, eq=False)
class FoundPose:
    """A person's compared joints: K×2 pixels of the image and K scores.

    Attributes:
        annotation_id: Whose box the pose was found in; None where that is not known.
    """

    image_id: int
    joints: NDArray[np.float32]
    joint_scores: NDArray[np.float32]
    score: float
    annotation_id: int | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """All poses, and how many images they were to be looked for in, those that failed included.

    Attributes:
        in_crops: Where the joints lie in each crop; None where whole images were shown.
    """

    poses: list[FoundPose]
    num_images: int
    in_crops: CropJoints | None = None


@dataclass(frozen=True)
class Accuracy:
    """AP and AR, and AP over the joints of one group and of each joint alone."""

    stats: Stats
    by_group: dict[str, float | None]
    by_joint: dict[str, float | None]


def choose(dataset: CocoDataset, request: PredictionRequest) -> Measured:
    """Choose images, persons and joints.

    Raises:
        ConfigError: The model and the data set have no joint in common.
        DatasetError: No person of the split has such a joint labelled.
    """
    joint_map = _comparable_joints(dataset, request)
    compared = [number for _, _, number in joint_map]
    persons = [p for p in dataset.all_persons() if (p.joints[compared, 2] > 0).any()]
    if not persons:
        raise DatasetError(
            f"No person of {dataset.annotation_file} has a labelled joint that the model predicts.",
            hint="Set dataset.evaluation_split to a split with annotated persons.",
        )
    if request.images == "all":
        ids = [image.id for image in dataset.images]
    else:
        ids = sorted({person.image_id for person in persons})
    available = len(ids)
    ids, subset = draw(ids, request)
    chosen = set(ids)
    measured = dataset.subset(ids)
    return Measured(
        dataset=measured,
        persons=tuple(person for person in persons if person.image_id in chosen),
        subset=subset,
        available_images=available,
        joint_map=joint_map,
    )


def _comparable_joints(dataset: CocoDataset, request: PredictionRequest) -> JointMap:
    of_model = request.model.joints
    common = common_joints(of_model, dataset.skeleton)
    known, title = dataset.sigmas, dataset.kind.title
    left_out = [joint for joint, _, _ in common if joint not in known]
    if left_out:
        log.warning("Not compared, because %s defines no OKS sigma for them: %s", title, ", ".join(left_out))
    joint_map = tuple(entry for entry in common if entry[0] in known)
    if not joint_map:
        raise ConfigError(
            f"The model ({of_model.name}: {', '.join(of_model.joints)}) and the data set "
            f"({', '.join(dataset.joint_names)}) have no joint in common that {title}'s metric knows.",
            hint="Set model.skeleton or model.joint_names to the joints that the network predicts, named as "
            f"{title} does.",
        )
    return joint_map


def read_truth(measured: CocoDataset) -> tuple[int, tuple[dict[str, Any], ...]]:
    """The category id of persons, and all annotations of persons in the images, with those that the metric ignores."""
    content = read_annotations(measured.annotation_file, measured.kind)
    category = person_category(content)
    ids = {image.id for image in measured.images}
    truth = tuple(
        {field: row[field] for field in _TRUTH_FIELDS if field in row}  # segments are most of a file, and not needed
        for row in content["annotations"]
        if row.get("image_id") in ids and (category is None or row.get("category_id") == category["id"])
    )
    return (1 if category is None else category["id"]), truth


def write_results(measured: Measured, poses: Sequence[FoundPose], request: EvaluationRequest) -> list[dict[str, Any]]:
    """Write poses as COCO results, and give them back."""
    rows = [
        _row(pose, annotation_id, measured)
        for pose, annotation_id in zip(poses, _annotation_ids(measured, poses), strict=True)
    ]
    write_atomically(request.predictions_file, json.dumps(rows).encode())
    return rows


def _row(pose: FoundPose, annotation_id: int | None, measured: Measured) -> dict[str, Any]:
    joints = np.zeros((len(measured.dataset.joint_names), 3))
    joints[measured.numbers, :2] = pose.joints
    joints[measured.numbers, 2] = pose.joint_scores
    return {
        "image_id": pose.image_id,
        "annotation_id": annotation_id,
        "category_id": measured.category_id,
        "keypoints": [round(float(value), _DIGITS) for value in joints.ravel()],
        "score": pose.score,
    }


def _annotation_ids(measured: Measured, poses: Sequence[FoundPose]) -> list[int | None]:
    """Whom each pose shows: whose box it was found in, or whom it matches best."""
    ids = [pose.annotation_id for pose in poses]
    unknown: dict[int, list[int]] = {}
    for number, pose in enumerate(poses):
        if pose.annotation_id is None:
            unknown.setdefault(pose.image_id, []).append(number)
    persons: dict[int, list[Person]] = {}
    for person in measured.persons:
        persons.setdefault(person.image_id, []).append(person)
    for image_id, numbers in unknown.items():
        if in_image := persons.get(image_id):
            truth = np.stack([person.joints[measured.numbers] for person in in_image])
            matches = match_poses(
                np.stack([poses[number].joints for number in numbers]),
                [poses[number].score for number in numbers],
                truth[..., :2],
                truth[..., 2] > 0,
                [person.area for person in in_image],
                measured.sigmas,
            )
            for number, match in zip(numbers, matches, strict=True):
                ids[number] = None if match is None else in_image[match].annotation_id
    return ids


def score(measured: Measured, results: Sequence[dict[str, Any]]) -> Accuracy:
    """Score COCO results over the compared joints."""
    # One call reads the results once for all parts.
    ap = coco_breakdown(measured.truth, results, _parts(measured))
    return Accuracy(
        stats=_STATS[measured.dataset.kind.metric](measured, results),
        by_group={name: ap.get(f"group/{name}") for name in measured.dataset.groups},
        by_joint={joint: ap[f"joint/{joint}"] for joint, _, _ in measured.joint_map},
    )


def image_table(measured: Measured, results: Sequence[dict[str, Any]]) -> MatchTable:
    """What became of each image: the judged figure, and those by size or crowd, by group and by joint."""
    dataset = measured.dataset
    levels: dict[str, list[int]] = {}
    if (of_kind := dataset.kind.crowd_levels) is not None:
        for image in dataset.images:
            levels.setdefault(of_kind.level(image.crowd_index or 0.0), []).append(image.id)
    return match_table(
        measured.truth,
        results,
        {WHOLE: (measured.numbers, measured.sigmas), **_parts(measured)},
        images=[image.id for image in dataset.images],
        sizes={} if of_kind is not None else SIZES,
        levels=levels,
    )


def _parts(measured: Measured) -> dict[str, tuple[list[int], list[float]]]:
    """The joints of each group and each joint alone: their numbers in the data set, and sigmas."""
    sigmas = measured.dataset.sigmas
    numbers = {joint: number for joint, _, number in measured.joint_map}
    parts = {f"group/{name}": joints for name, joints in measured.dataset.groups.items()}
    parts |= {f"joint/{joint}": (joint,) for joint in numbers}
    compared = {name: [joint for joint in joints if joint in numbers] for name, joints in parts.items()}
    return {
        name: ([numbers[joint] for joint in joints], [sigmas[joint] for joint in joints])
        for name, joints in compared.items()
        if joints
    }


def _coco(measured: Measured, results: Sequence[dict[str, Any]]) -> Stats:
    return coco_stats(measured.truth, results, joints=measured.numbers, sigmas=measured.sigmas)


def _crowdpose(measured: Measured, results: Sequence[dict[str, Any]]) -> Stats:
    levels = measured.dataset.kind.crowd_levels
    if levels is None:
        raise ConfigError(f"{measured.dataset.kind.title} does not say how crowded its images are.")
    return crowdpose_stats(
        measured.truth,
        results,
        joints=measured.numbers,
        sigmas=measured.sigmas,
        crowd_index={image.id: image.crowd_index or 0.0 for image in measured.dataset.images},
        levels=levels,
    )


_STATS: dict[MetricName, Callable[[Measured, Sequence[dict[str, Any]]], Stats]] = {
    "coco_oks_ap": _coco,
    "crowdpose_oks_ap": _crowdpose,
}


def score_spread(results: Sequence[dict[str, Any]]) -> ScoreSpread | None:
    """How sure the network was of the annotated people, each by the best pose that shows him; None without any."""
    best: dict[int, float] = {}
    for row in results:
        if row["annotation_id"] is not None:
            best[row["annotation_id"]] = max(row["score"], best.get(row["annotation_id"], 0.0))
    if not best:
        return None
    low, median = np.quantile(list(best.values()), (0.05, 0.5))
    return ScoreSpread(persons=len(best), low=round(float(low), _DIGITS), median=round(float(median), _DIGITS))


def ids_digest(dataset: CocoDataset) -> str:
    """SHA-256 of the sorted image ids."""
    ids = sorted(image.id for image in dataset.images)
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
