"""From predictions and MPII's truth to a `EvaluationReport`: crops by annotated centre and scale, as Simple Baselines.

Crops and predictions count pixels from 0; they get +1 where they meet the truth, which counts from 1.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config import EvaluationConfig, ModelConfig
from hpe_tasks.data.mpii import MpiiKeypoints, MpiiPerson, check_images, crop_region, load_truth, to_file_pixels
from hpe_tasks.errors import ConfigError, DatasetError
from hpe_tasks.evaluation import RUNTIME_TITLES, JointMap, Runtime
from hpe_tasks.inference import CropBatch, ImageCrops, Predict, Region, crop_batches, find_poses
from hpe_tasks.metrics.pckh import HEAD_FACTOR, pckh_stats
from hpe_tasks.progress import track
from hpe_tasks.results import Artifact, EvaluationReport, ProtocolFingerprint
from hpe_tasks.skeletons import MPII16, common_joints
from hpe_tasks.workspace import write_atomically

DECODER = f"heatmap argmax with a quarter-pixel shift; head size: {HEAD_FACTOR} of the head box's diagonal"

_JOINTS = len(MPII16.joints)

# Digits kept in the predictions file: a thousandth of a pixel is far below what PCKh resolves.
_DIGITS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Found:
    """N×16×2 image pixels counted from 0 and N×16 scores, in MPII's order; zero for joints that are not compared."""

    keypoints: NDArray[np.float64]
    scores: NDArray[np.float64]


def evaluate_mpii(
    dataset: MpiiKeypoints,
    predict: Predict,
    config: ModelConfig,
    evaluation: EvaluationConfig,
    *,
    runtime: Runtime,
    dataset_digest: str,
    seed: int,
    predictions_file: Path,
    artifact: Callable[[Path], Artifact],
) -> EvaluationReport:
    """Measure a network on the persons of an MPII split and keep its predictions.

    Joints that the model does not predict are not compared: their columns are None, and the fingerprint's joint map
    says which were.

    Args:
        dataset: The split.
        predict: The network: normalized N×3×H×W → heatmaps N×J×h×w.
        config: Its input and its joints, which are matched with MPII's by name.
        evaluation: Batch size, and how many images to measure on.
        runtime: What runs the network; recorded in the report.
        dataset_digest: Content digest of the data set.
        seed: Of the subset, when `evaluation.num_images` asks for one.
        predictions_file: Where the predictions go: a JSON list with, for each person, `image`, `person` (its number
            in the annotation file) and `keypoints`: (x, y, score) in MPII's order, in image pixels counted from 0,
            zero for joints that are not compared.
        artifact: Describes the written file.

    Raises:
        ConfigError: The model predicts no joint of MPII's.
        DatasetError: The truth cannot be used; nobody has such a joint; an image is missing or cannot be decoded.
        CheckpointError: The network's output does not fit the configuration.
    """
    joint_map = _comparable_joints(config)
    measured, subset = _choose_persons(dataset, joint_map, evaluation.num_images, seed)
    truth = load_truth(measured)
    check_images(measured)

    started = time.perf_counter()
    found = _predict(measured, predict, config, evaluation.batch_size, joint_map, runtime)
    elapsed = time.perf_counter() - started

    write_atomically(predictions_file, json.dumps(_rows(measured.persons, found)).encode())
    compared = np.zeros(_JOINTS, dtype=np.bool_)
    compared[[index for _, _, index in joint_map]] = True
    return EvaluationReport(
        runtime=runtime,
        by_group={},
        stats=pckh_stats(to_file_pixels(found.keypoints), truth.joints, truth.visible & compared, truth.head_boxes),
        fingerprint=ProtocolFingerprint(
            dataset_digest=dataset_digest,
            split=dataset.split,
            image_ids_digest=hashlib.sha256("\n".join(measured.images).encode()).hexdigest(),
            num_images=len(measured.images),
            num_persons=len(measured.persons),
            subset=subset,
            box_source="annotated_center_scale",
            flip_test=False,
            decoder=DECODER,
            input_size=config.input_size,
            joint_map=joint_map,
            sigmas=(),
            metric="mpii_pckh",
        ),
        predictions=artifact(predictions_file),
        images_per_second=len(measured.images) / elapsed,
    )


def mpii_batches(dataset: MpiiKeypoints, config: ModelConfig, batch_size: int) -> Iterator[CropBatch[MpiiPerson]]:
    """Cut the persons out of their images by annotated centre and scale, as the network wants them.

    Persons of one image come together, images in the order in which the split first names them.

    Raises:
        DatasetError: An image is missing or cannot be decoded; names the file.
    """
    by_image: dict[str, list[MpiiPerson]] = {}
    for person in dataset.persons:
        by_image.setdefault(person.image, []).append(person)
    return crop_batches((_crops(dataset, persons) for persons in by_image.values()), config, batch_size)


def _crops(dataset: MpiiKeypoints, persons: Sequence[MpiiPerson]) -> ImageCrops[MpiiPerson]:
    def regions(_size: tuple[int, int]) -> list[Region]:
        return [crop_region(person) for person in persons]

    return ImageCrops(dataset.image_path(persons[0]), tuple(persons), regions)


def _comparable_joints(config: ModelConfig) -> JointMap:
    joint_map = common_joints(config.joints, MPII16)
    if not joint_map:
        raise ConfigError(
            f"The model ({config.joints.name}: {', '.join(config.joints.joints)}) predicts no joint of MPII "
            f"({', '.join(MPII16.joints)}).",
            hint="Set model.skeleton or model.joint_names to the joints that the network predicts, named as here.",
        )
    lacking = [joint for joint in MPII16.joints if joint not in {name for name, _, _ in joint_map}]
    if lacking:
        log.warning("Not compared, because the model does not predict them: %s", ", ".join(lacking))
    return joint_map


def _choose_persons(
    dataset: MpiiKeypoints, joint_map: JointMap, num_images: int | None, seed: int
) -> tuple[MpiiKeypoints, bool]:
    """The persons who are measured, and whether they are a subset drawn by seed."""
    compared = [index for _, _, index in joint_map]
    persons = tuple(person for person in dataset.persons if person.visible[compared].any())
    if not persons:
        raise DatasetError(
            f"Nobody in {dataset.annotation_file} has a labelled joint that the model predicts.",
            hint="Set dataset.evaluation_split to a split with annotated persons.",
        )
    everyone = replace(dataset, persons=persons)
    if num_images is None or num_images >= len(everyone.images):
        return everyone, False
    return everyone.subset(random.Random(seed).sample(everyone.images, num_images)), True


def _predict(
    dataset: MpiiKeypoints,
    predict: Predict,
    config: ModelConfig,
    batch_size: int,
    joint_map: JointMap,
    runtime: Runtime,
) -> _Found:
    channels = [channel for _, channel, _ in joint_map]
    joints = [index for _, _, index in joint_map]
    rows = {person.index: row for row, person in enumerate(dataset.persons)}
    keypoints = np.zeros((len(rows), _JOINTS, 2))
    scores = np.zeros((len(rows), _JOINTS))
    batches = find_poses(mpii_batches(dataset, config, batch_size), predict, config)
    count = -(-len(rows) // batch_size)
    for batch in track(batches, f"Evaluating {RUNTIME_TITLES[runtime]}", total=count):
        own = [rows[person.index] for person in batch.persons]
        keypoints[np.ix_(own, joints)] = batch.poses.keypoints[:, channels]
        scores[np.ix_(own, joints)] = batch.poses.scores[:, channels]
    return _Found(keypoints, scores)


def _rows(persons: Sequence[MpiiPerson], found: _Found) -> list[dict[str, object]]:
    triples = np.concatenate([found.keypoints, found.scores[..., None]], axis=2)
    return [
        {
            "image": person.image,
            "person": person.index,
            "keypoints": [round(float(value), _DIGITS) for value in triples[row].ravel()],
        }
        for row, person in enumerate(persons)
    ]
