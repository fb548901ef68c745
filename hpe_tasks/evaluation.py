"""From predictions and truth to an `EvaluationReport`: top-down, with ground-truth boxes, as Simple Baselines scores.

Only persons who have a labelled joint that the model predicts are measured; their images are the measured images.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpe_tasks import inference
from hpe_tasks.codecs.heatmap import PIXEL_STD
from hpe_tasks.config import EvaluationConfig, ModelConfig
from hpe_tasks.data.coco import CocoKeypoints, Person, person_category, read_annotations
from hpe_tasks.errors import ConfigError, DatasetError
from hpe_tasks.metrics.oks import JOINT_GROUPS, coco_sigmas, coco_stats, suppress_duplicates
from hpe_tasks.progress import track
from hpe_tasks.results import Artifact, EvaluationReport, ProtocolFingerprint
from hpe_tasks.skeletons import Skeleton, common_joints
from hpe_tasks.workspace import write_atomically

Runtime = Literal["fp32", "quantsim", "onnxruntime"]
JointMap = tuple[tuple[str, int, int], ...]
"""(joint, channel of the model, keypoint of the data set) for every joint that is compared."""

JOINT_SCORE_THRESHOLD = 0.2
NMS_THRESHOLD = 0.9
DECODER = (
    "heatmap argmax with a quarter-pixel shift; "
    f"person score: mean of the joint scores above {JOINT_SCORE_THRESHOLD}; OKS-NMS at {NMS_THRESHOLD}"
)

RUNTIME_TITLES: dict[Runtime, str] = {"fp32": "FP32", "quantsim": "QuantSim", "onnxruntime": "ONNX file"}

# Digits kept in the predictions file: a thousandth of a pixel is far below what OKS resolves.
_DIGITS = 3

_TRUTH_FIELDS = ("id", "image_id", "keypoints", "num_keypoints", "bbox", "area", "iscrowd")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _ScoredPose:
    """A person's compared joints: K×2 pixels of the image, K scores, and the area of the crop in square pixels."""

    person: Person
    keypoints: NDArray[np.float32]
    joint_scores: NDArray[np.float32]
    score: float
    area: float


def evaluate(
    dataset: CocoKeypoints,
    predict: inference.Predict,
    config: ModelConfig,
    evaluation: EvaluationConfig,
    *,
    runtime: Runtime,
    dataset_digest: str,
    seed: int,
    predictions_file: Path,
    artifact: Callable[[Path], Artifact],
) -> EvaluationReport:
    """Measure a network on a split's persons and keep its predictions.

    Args:
        dataset: The split.
        predict: The network: normalized N×3×H×W → heatmaps N×J×h×w.
        config: Its input and its joints.
        evaluation: Batch size, and how many images to measure on.
        runtime: What runs the network; recorded in the report.
        dataset_digest: Content digest of the data set.
        seed: Of the subset, when `evaluation.num_images` asks for one.
        predictions_file: Where the COCO results JSON goes. Each entry also has `annotation_id`; its keypoints are
            (x, y, score) in the data set's order, zero for joints that are not compared.
        artifact: Describes the written file.

    Raises:
        ConfigError: The model and the data set have no joint in common.
        DatasetError: No person of the split has such a joint; an image or a box cannot be used.
        CheckpointError: The network's output does not fit the configuration.
    """
    joint_map = _comparable_joints(dataset, config)
    measured, persons, subset = _choose_persons(dataset, joint_map, evaluation.num_images, seed)
    sigmas = tuple(coco_sigmas()[joint] for joint, _, _ in joint_map)

    started = time.perf_counter()
    poses = _predict_poses(measured, persons, predict, config, evaluation.batch_size, joint_map, runtime)
    elapsed = time.perf_counter() - started

    truth, category_id = _read_truth(measured)
    results = [
        _result_row(pose, joint_map, len(dataset.keypoint_names), category_id)
        for pose in _without_duplicates(poses, sigmas)
    ]
    write_atomically(predictions_file, json.dumps(results).encode())

    keypoints = [index for _, _, index in joint_map]
    return EvaluationReport(
        runtime=runtime,
        stats=coco_stats(truth, results, joints=keypoints, sigmas=sigmas),
        by_group={group: _group_ap(truth, results, joint_map, joints) for group, joints in JOINT_GROUPS.items()},
        fingerprint=ProtocolFingerprint(
            dataset_digest=dataset_digest,
            split=dataset.split,
            image_ids_digest=_ids_digest(measured),
            num_images=len(measured.images),
            num_persons=len(persons),
            subset=subset,
            box_source="ground_truth",
            flip_test=False,
            decoder=DECODER,
            input_size=config.input_size,
            joint_map=joint_map,
            sigmas=sigmas,
        ),
        predictions=artifact(predictions_file),
        images_per_second=len(measured.images) / elapsed,
    )


def person_score(joint_scores: NDArray[np.float32]) -> float:
    """Score a person by the mean of its joint scores above 0.2, and 0 where none is.

    The reference multiplies by the box's score, which is 1 for ground-truth boxes.
    """
    confident = joint_scores[joint_scores > JOINT_SCORE_THRESHOLD]
    return float(confident.mean()) if confident.size else 0.0


def _comparable_joints(dataset: CocoKeypoints, config: ModelConfig) -> JointMap:
    of_dataset = Skeleton(name=dataset.split, joints=dataset.keypoint_names, limbs=())
    common = common_joints(config.joints, of_dataset)
    known = coco_sigmas()
    left_out = [joint for joint, _, _ in common if joint not in known]
    if left_out:
        log.warning("Not compared, because COCO defines no OKS sigma for them: %s", ", ".join(left_out))
    joint_map = tuple(entry for entry in common if entry[0] in known)
    if not joint_map:
        raise ConfigError(
            f"The model ({config.joints.name}: {', '.join(config.joints.joints)}) and the data set "
            f"({', '.join(dataset.keypoint_names)}) have no joint in common that COCO's metric knows.",
            hint="Set model.skeleton or model.joint_names to the joints that the network predicts, named as COCO does.",
        )
    return joint_map


def _choose_persons(
    dataset: CocoKeypoints, joint_map: JointMap, num_images: int | None, seed: int
) -> tuple[CocoKeypoints, tuple[Person, ...], bool]:
    """The measured images, their persons, and whether they are a subset drawn by seed."""
    compared = [index for _, _, index in joint_map]
    persons = [p for p in dataset.all_persons() if (p.keypoints[compared, 2] > 0).any()]
    if not persons:
        raise DatasetError(
            f"No person of {dataset.annotation_file} has a labelled joint that the model predicts.",
            hint="Set dataset.evaluation_split to a split with annotated persons.",
        )
    ids = sorted({person.image_id for person in persons})
    subset = num_images is not None and num_images < len(ids)
    if num_images is not None and subset:
        ids = random.Random(seed).sample(ids, num_images)
    measured = dataset.subset(ids)
    chosen = set(ids)
    return measured, tuple(person for person in persons if person.image_id in chosen), subset


def _predict_poses(
    dataset: CocoKeypoints,
    persons: Sequence[Person],
    predict: inference.Predict,
    config: ModelConfig,
    batch_size: int,
    joint_map: JointMap,
    runtime: Runtime,
) -> list[_ScoredPose]:
    channels = [channel for _, channel, _ in joint_map]
    batches = inference.predict(dataset, predict, config, batch_size, persons)
    count = -(-len(persons) // batch_size)
    poses = []
    for found in track(batches, f"Evaluating {RUNTIME_TITLES[runtime]}", total=count):
        keypoints = found.poses.keypoints[:, channels]
        scores = found.poses.scores[:, channels]
        areas = np.prod(found.scales * PIXEL_STD, axis=1)
        poses += [
            _ScoredPose(person, keypoints[i], scores[i], person_score(scores[i]), float(areas[i]))
            for i, person in enumerate(found.persons)
        ]
    return poses


def _without_duplicates(poses: Sequence[_ScoredPose], sigmas: Sequence[float]) -> list[_ScoredPose]:
    """OKS-NMS in each image; the order of the poses stays."""
    kept: list[_ScoredPose] = []
    for _, group in groupby(poses, key=lambda pose: pose.person.image_id):
        in_image = list(group)
        best = suppress_duplicates(
            np.stack([pose.keypoints for pose in in_image]),
            [pose.score for pose in in_image],
            [pose.area for pose in in_image],
            sigmas,
            threshold=NMS_THRESHOLD,
        )
        kept += [in_image[i] for i in sorted(best)]
    return kept


def _result_row(pose: _ScoredPose, joint_map: JointMap, num_keypoints: int, category_id: int) -> dict[str, Any]:
    keypoints = np.zeros((num_keypoints, 3))
    indices = [index for _, _, index in joint_map]
    keypoints[indices, :2] = pose.keypoints
    keypoints[indices, 2] = pose.joint_scores
    return {
        "image_id": pose.person.image_id,
        "annotation_id": pose.person.annotation_id,
        "category_id": category_id,
        "keypoints": [round(float(value), _DIGITS) for value in keypoints.ravel()],
        "score": pose.score,
    }


def _read_truth(measured: CocoKeypoints) -> tuple[list[dict[str, Any]], int]:
    """All annotations of persons in the measured images, with those that the metric ignores; and their category."""
    content = read_annotations(measured.annotation_file)
    category = person_category(content)
    ids = {image.id for image in measured.images}
    truth = [
        {field: row[field] for field in _TRUTH_FIELDS if field in row}  # segments are most of a file, and not needed
        for row in content["annotations"]
        if row.get("image_id") in ids and (category is None or row.get("category_id") == category["id"])
    ]
    return truth, 1 if category is None else category["id"]


def _group_ap(
    truth: Sequence[dict[str, Any]], results: Sequence[dict[str, Any]], joint_map: JointMap, group: tuple[str, ...]
) -> float | None:
    entries = [(joint, index) for joint, _, index in joint_map if joint in group]
    if not entries:
        return None
    sigmas = coco_sigmas()
    return coco_stats(
        truth, results, joints=[index for _, index in entries], sigmas=[sigmas[joint] for joint, _ in entries]
    ).ap


def _ids_digest(dataset: CocoKeypoints) -> str:
    ids = sorted(image.id for image in dataset.images)
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()
