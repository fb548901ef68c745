"""Poses of persons whose boxes are known, annotated or detected, as Simple Baselines finds and scores them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np

from hpe_tasks import inference
from hpe_tasks.data.coco import CocoDataset, CocoImage, Person
from hpe_tasks.errors import DatasetError
from hpe_tasks.evaluation.boxes import DetectedPerson, load_boxes
from hpe_tasks.evaluation.coco import Found, FoundPose, Measured
from hpe_tasks.evaluation.crop_joints import CropJointsLog
from hpe_tasks.evaluation.request import EvaluationRequest, FailedImages, PredictionRequest
from hpe_tasks.evaluation.shards import Crops, read_persons
from hpe_tasks.inference import ImageCrops, PosedPersons, Region, Unreadable
from hpe_tasks.metrics.oks import suppress_duplicates
from hpe_tasks.pose.codecs import Codec
from hpe_tasks.pose.crops import JOINT_SCORE_THRESHOLD, PIXEL_STD, box_to_center_scale, person_score
from hpe_tasks.progress import track

NMS_THRESHOLD = 0.9

PersonT = TypeVar("PersonT")
CocoPersonT = TypeVar("CocoPersonT", Person, DetectedPerson)


def posed_persons(
    crops: Crops[PersonT], request: EvaluationRequest, failed: FailedImages
) -> Iterator[PosedPersons[PersonT]]:
    """Look for everybody's joints, or take what parts that were made before have found."""
    evaluation = request.evaluation
    if request.shards is not None:
        return read_persons(crops, evaluation.batch_size, request.shards, failed)
    batches = inference.crop_batches(crops(), request.model, evaluation.batch_size, failed.add)
    return inference.find_poses(batches, request.predict, request.model, flip_test=evaluation.flip_test)


@dataclass(frozen=True, eq=False)
class _InCrop:
    """A pose, and the area of its crop in square pixels."""

    pose: FoundPose
    area: float


def decoder_text(codec: Codec) -> str:
    """How people are read and chosen, as the protocol says it."""
    return (
        f"{codec.decoder}; "
        f"person score: mean of the joint scores above {JOINT_SCORE_THRESHOLD}, times the box's score; "
        f"OKS-NMS at {NMS_THRESHOLD}"
    )


def find_in_annotated_boxes(measured: Measured, request: EvaluationRequest, failed: FailedImages) -> Found:
    """Find the measured persons' joints, each in its annotated box, clipped to its image.

    Raises:
        DatasetError: Too many images cannot be read, or do not fit their records.
        CheckpointError: The network's output does not fit the configuration.
    """
    images = {person.image_id for person in measured.persons}
    return _find(annotated_crops(measured, request), len(measured.persons), measured, request, failed, len(images))


def annotated_crops(measured: Measured, request: PredictionRequest) -> Crops[Person]:
    """The measured persons, each in its annotated box, clipped to its image."""
    return partial(measured.dataset.crops, request.model.input_size, measured.persons)


def find_in_detected_boxes(
    measured: Measured, dataset: CocoDataset, boxes: Path, request: EvaluationRequest, failed: FailedImages
) -> Found:
    """Find the joints of everyone whom a detector found in the measured images, in its boxes as they are.

    Args:
        measured: The measured images.
        dataset: All images of the split: those that the boxes may lie in.
        boxes: COCO results file of the detector.
        request: How to measure.
        failed: Takes the images that cannot be read, or do not fit their records.

    Raises:
        DatasetError: As `load_boxes` and `find_in_annotated_boxes`, or there is no box in any measured image.
        CheckpointError: The network's output does not fit the configuration.
    """
    crops, images = detected_crops(measured, dataset, boxes, request)
    boxes_in_images = sum(len(image.persons) for image in crops())
    return _find(crops, boxes_in_images, measured, request, failed, images)


def detected_crops(
    measured: Measured, dataset: CocoDataset, boxes: Path, request: PredictionRequest
) -> tuple[Crops[DetectedPerson], int]:
    """Everyone whom a detector found in the measured images, in its boxes as they are, and in how many images.

    Raises:
        DatasetError: As `find_in_detected_boxes`.
    """
    by_image = load_boxes(boxes, dataset, measured.category_id)
    images = [image for image in measured.dataset.images if image.id in by_image]
    if not images:
        raise DatasetError(
            f"{boxes} holds no detection of a person (category_id {measured.category_id}) in the "
            f"{len(measured.dataset.images)} images that are measured.",
            hint="Set dataset.boxes to the detections of dataset.evaluation_split.",
        )

    def crops() -> Iterator[ImageCrops[DetectedPerson]]:
        return (_crops(dataset, image, by_image[image.id], request.model.input_size) for image in images)

    return crops, len(images)


def _crops(
    dataset: CocoDataset, image: CocoImage, persons: Sequence[DetectedPerson], input_size: tuple[int, int]
) -> ImageCrops[DetectedPerson]:
    path = dataset.image_path(image)

    def regions(size: tuple[int, int]) -> list[Region] | Unreadable:
        if fault := inference.wrong_size(path, image, size):
            return fault
        return [box_to_center_scale(person.box, size, input_size, clip=False) for person in persons]

    return ImageCrops(path, tuple(persons), regions)


def _find(
    crops: Crops[CocoPersonT],
    persons: int,
    measured: Measured,
    request: EvaluationRequest,
    failed: FailedImages,
    num_images: int,
) -> Found:
    found = posed_persons(crops, request, failed)
    poses, in_crops = [], CropJointsLog(measured.channels)
    for batch in track(found, request.title, total=persons, unit="persons", count=lambda done: len(done.persons)):
        in_crops.add(batch)
        joints = batch.poses.joints[:, measured.channels]
        joint_scores = batch.poses.scores[:, measured.channels]
        areas = np.prod(batch.scales * PIXEL_STD, axis=1)
        for i, person in enumerate(batch.persons):
            box_score, annotation_id = (
                (person.score, None) if isinstance(person, DetectedPerson) else (1.0, person.annotation_id)
            )
            pose = FoundPose(
                image_id=person.image_id,
                joints=joints[i],
                joint_scores=joint_scores[i],
                score=person_score(joint_scores[i]) * box_score,
                annotation_id=annotation_id,
            )
            poses.append(_InCrop(pose, float(areas[i])))
    return Found(_without_duplicates(poses, measured.sigmas), num_images, in_crops.joined())


def _without_duplicates(poses: Sequence[_InCrop], sigmas: Sequence[float]) -> list[FoundPose]:
    """OKS-NMS in each image; the order of the poses stays."""
    kept: list[FoundPose] = []
    for _, group in groupby(poses, key=lambda found: found.pose.image_id):
        in_image = list(group)
        best = suppress_duplicates(
            np.stack([found.pose.joints for found in in_image]),
            [found.pose.score for found in in_image],
            [found.area for found in in_image],
            sigmas,
            threshold=NMS_THRESHOLD,
        )
        kept += [in_image[i].pose for i in sorted(best)]
    return kept
