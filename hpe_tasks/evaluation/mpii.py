"""MPII's PCKh: persons in crops by annotated centre and scale, as Simple Baselines.

Crops and predictions count pixels from 0; they get +1 where they meet the truth, which counts from 1.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.mpii import MpiiDataset, MpiiPerson, load_truth, to_file_pixels
from hpe_tasks.errors import ConfigError, DatasetError
from hpe_tasks.evaluation.crop_joints import CropJointsLog
from hpe_tasks.evaluation.request import EvaluationRequest, FailedImages, JointMap, PredictionRequest, draw
from hpe_tasks.evaluation.shards import Shard, WrittenShard, write_persons
from hpe_tasks.evaluation.top_down import posed_persons
from hpe_tasks.metrics.image_tables import WHOLE, HitTable, hit_table
from hpe_tasks.metrics.pckh import (
    HEAD_FACTOR,
    NOT_IN_MEAN,
    PCKH_GROUPS,
    THRESHOLD,
    pckh_by_joint,
    pckh_hits,
    pckh_stats,
)
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.skeletons import MPII16, common_joints
from hpe_tasks.progress import track
from hpe_tasks.records.evaluation import EvaluationReport, ProtocolFingerprint
from hpe_tasks.storage.files import write_atomically

_JOINTS = len(MPII16.joints)

# Where the joints of a person lie whose image could not be read: wrong at any size of head.
_NOWHERE = -1e9

# Digits kept in the predictions file: a thousandth of a pixel is far below what PCKh resolves.
_DIGITS = 3
_ROUNDED_PX = 0.001  # no less than what rounding both coordinates moves a joint by

Scored = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]
"""The arguments of `pckh_stats`."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Found:
    """What was found of N persons, in MPII's order of joints.

    Attributes:
        joints: N×16×2 image pixels counted from 0; zero for joints that are not compared.
        scores: N×16.
        seen: N: whether the person's image could be read.
        in_crops: Where the joints that the model and MPII have lie in each crop.
    """

    joints: NDArray[np.float64]
    scores: NDArray[np.float64]
    seen: NDArray[np.bool_]
    in_crops: CropJointsLog


def evaluate_mpii(dataset: MpiiDataset, request: EvaluationRequest) -> EvaluationReport:
    """Measure a network on the persons of an MPII split and keep its predictions.

    Joints that the model does not predict are not compared: their columns are None, and the fingerprint's joint map
    says which were.

    Raises:
        ConfigError: The model predicts no joint of MPII's.
        DatasetError: The truth cannot be used; no person has such a joint; too many images cannot be read.
        CheckpointError: The network's output does not fit the configuration.
    """
    joint_map = _comparable_joints(request.model)
    measured, available = _choose_persons(dataset, joint_map, request)
    truth = load_truth(measured)
    failed = FailedImages(dataset.root, len(measured.images), request.evaluation.max_failed_images)

    started = time.perf_counter()
    found = _find(measured, joint_map, request, failed)
    elapsed = time.perf_counter() - started

    write_atomically(request.predictions_file, json.dumps(_rows(measured.persons, found)).encode())
    compared = np.zeros(_JOINTS, dtype=np.bool_)
    compared[[index for _, _, index in joint_map]] = True
    predictions = to_file_pixels(np.where(found.seen[:, None, None], found.joints, _NOWHERE))
    scored = predictions, truth.joints, truth.visible & compared, truth.head_boxes
    stats, by_joint = pckh_stats(*scored), pckh_by_joint(*scored)
    return EvaluationReport(
        runtime=request.runtime,
        stats=stats,
        by_group={group: getattr(stats, group) for group in PCKH_GROUPS},
        by_joint={joint: by_joint[joint] for joint, _, _ in joint_map},
        fingerprint=ProtocolFingerprint(
            dataset_digest=request.dataset_digest,
            split=dataset.split,
            image_ids_digest=hashlib.sha256("\n".join(measured.images).encode()).hexdigest(),
            num_images=len(measured.images),
            num_persons=len(measured.persons),
            subset=len(measured.images) < available,
            box_source="annotated_center_scale",
            flip_test=request.evaluation.flip_test,
            decoder=f"{CODECS[request.model.codec].decoder}; head size: {HEAD_FACTOR} of the head box's diagonal",
            input_size=request.model.input_size,
            joint_map=joint_map,
            sigmas=(),
            metric="mpii_pckh",
        ),
        predictions=request.artifact(request.predictions_file),
        image_table=request.kept(lambda: _table(measured, joint_map, scored)),
        crop_joints=request.kept_in_crops(found.in_crops.joined()),
        available_images=available,
        failed_images=failed.images,
        images_per_second=(len(measured.images) - len(failed.images)) / request.seconds(elapsed),
        cpu_features=request.cpu_features,
    )


def predict_mpii_shard(dataset: MpiiDataset, request: PredictionRequest, shard: Shard, file: Path) -> WrittenShard:
    """Show a part of the persons of an MPII split to a network, and keep what it found."""
    measured, _ = _choose_persons(dataset, _comparable_joints(request.model), request)
    failed = FailedImages(dataset.root, len(measured.images), request.evaluation.max_failed_images)
    return write_persons(partial(measured.crops, request.model.input_size), request, shard, failed, file)


def tables_of_rows(
    dataset: MpiiDataset, rows: Sequence[Mapping[str, Any]], request: PredictionRequest
) -> tuple[MpiiDataset, JointMap, tuple[HitTable, HitTable]]:
    """What is measured, and the table of images that stored predictions give.

    Stored are thousandths of a pixel, and counted was with all digits: the first table has no hit that the others may
    have made a miss, the second every one.

    Raises:
        ValueError: A row is of nobody who is measured, or of somebody who has one already.
    """
    joint_map = _comparable_joints(request.model)
    measured, _ = _choose_persons(dataset, joint_map, request)
    truth = load_truth(measured)
    of_person = {(person.image, person.index): row for row, person in enumerate(measured.persons)}
    joints = np.full((len(of_person), _JOINTS, 2), _NOWHERE)
    for row in rows:
        place = of_person.pop((row["image"], row["person"]), None)
        if place is None:
            raise ValueError(f"person {row['person']!r} in {row['image']!r} is not measured, or is there twice")
        joints[place] = to_file_pixels(np.array(row["keypoints"], dtype=np.float64).reshape(_JOINTS, 3)[:, :2])
    compared = np.zeros(_JOINTS, dtype=np.bool_)
    compared[[index for _, _, index in joint_map]] = True
    first, diagonal = truth.head_boxes[:, :1], np.diff(truth.head_boxes, axis=1)
    slack = _ROUNDED_PX / (THRESHOLD * HEAD_FACTOR * np.linalg.norm(diagonal, axis=2, keepdims=True))

    def table(sign: int) -> HitTable:
        heads = np.concatenate([first, first + diagonal * (1 + sign * slack)], axis=1)
        return _table(measured, joint_map, (joints, truth.joints, truth.visible & compared, heads))

    return measured, joint_map, (table(-1), table(1))


def _table(measured: MpiiDataset, joint_map: JointMap, scored: Scored) -> HitTable:
    """What became of each image: the mean, and by group and joint what was compared."""
    compared = {joint: index for joint, _, index in joint_map}
    columns = {WHOLE: tuple(index for joint, index in compared.items() if joint not in NOT_IN_MEAN)}
    for group, joints in PCKH_GROUPS.items():
        columns[f"group/{group}"] = tuple(compared[joint] for joint in joints if joint in compared)
    columns |= {f"joint/{joint}": (index,) for joint, index in compared.items()}
    right, labelled = pckh_hits(*scored)
    known = {part: indices for part, indices in columns.items() if indices}
    return hit_table([person.image for person in measured.persons], right, labelled, known)


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


def _choose_persons(dataset: MpiiDataset, joint_map: JointMap, request: PredictionRequest) -> tuple[MpiiDataset, int]:
    """The persons who are measured, and how many images there are to draw from."""
    compared = [index for _, _, index in joint_map]
    persons = tuple(person for person in dataset.persons if person.visible[compared].any())
    if not persons:
        raise DatasetError(
            f"No person in {dataset.annotation_file} has a labelled joint that the model predicts.",
            hint="Set dataset.evaluation_split to a split with annotated persons.",
        )
    everyone = replace(dataset, persons=persons)
    images, subset = draw(everyone.images, request)
    return (everyone.subset(images) if subset else everyone), len(everyone.images)


def _find(dataset: MpiiDataset, joint_map: JointMap, request: EvaluationRequest, failed: FailedImages) -> _Found:
    channels = [channel for _, channel, _ in joint_map]
    joints = [index for _, _, index in joint_map]
    rows = {person.index: row for row, person in enumerate(dataset.persons)}
    zeros = np.zeros((len(rows), _JOINTS, 2)), np.zeros((len(rows), _JOINTS)), np.zeros(len(rows), np.bool_)
    found = _Found(*zeros, CropJointsLog(channels))
    batches = posed_persons(partial(dataset.crops, request.model.input_size), request, failed)
    shown = track(batches, request.title, total=len(rows), unit="persons", count=lambda done: len(done.persons))
    for batch in shown:
        own = [rows[person.index] for person in batch.persons]
        found.joints[np.ix_(own, joints)] = batch.poses.joints[:, channels]
        found.scores[np.ix_(own, joints)] = batch.poses.scores[:, channels]
        found.seen[own] = True
        found.in_crops.add(batch)
    return found


def _rows(persons: Sequence[MpiiPerson], found: _Found) -> list[dict[str, object]]:
    triples = np.concatenate([found.joints, found.scores[..., None]], axis=2)
    return [
        {
            "image": person.image,
            "person": person.index,
            "keypoints": [round(float(value), _DIGITS) for value in triples[row].ravel()],
        }
        for row, person in enumerate(persons)
        if found.seen[row]
    ]
