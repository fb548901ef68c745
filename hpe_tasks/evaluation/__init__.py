"""From predictions and truth to an `EvaluationReport`.

COCO is measured top-down (one crop for each annotated or detected box) or bottom-up (all people of a whole image), as
the model's codec says; MPII top-down. Each follows the protocol of its reference, which the report's fingerprint names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.data.dataset import Dataset
from hpe_tasks.errors import ConfigError
from hpe_tasks.evaluation import bottom_up, coco, top_down
from hpe_tasks.evaluation.mpii import evaluate_mpii, predict_mpii_shard
from hpe_tasks.evaluation.request import EvaluationRequest, FailedImages, PredictionRequest
from hpe_tasks.evaluation.shards import Shard, StoredShard, WrittenShard, write_people, write_persons
from hpe_tasks.inference import Predict
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import EvaluationReport, ProtocolFingerprint, Runtime
from hpe_tasks.records.shards import PredictedShard
from hpe_tasks.storage.files import sha256_file

__all__ = ["evaluate", "predict_shard"]


def evaluate(
    dataset: Dataset,
    predict: Predict,
    model: ModelConfig,
    evaluation: EvaluationConfig,
    *,
    images: Literal["with_persons", "all"] = "with_persons",
    boxes: Path | None = None,
    runtime: Runtime,
    dataset_digest: str,
    seed: int,
    predictions_file: Path,
    artifact: Callable[[Path], Artifact],
    further: tuple[int, int] | None = None,
    keep_table: bool = True,
    shards: Sequence[StoredShard] | None = None,
) -> EvaluationReport:
    """Measure a network on a split and keep its predictions.

    Only joints that the model predicts and the data set labels are compared, and only persons who have one labelled
    are measured. An image that cannot be read, has another size than its record says or does not hold an annotated box
    is logged and named in the report, and its persons count as missed, as long as no more fail than
    `evaluation.max_failed_images` allows. The report's images per second are those that the network saw.

    Args:
        dataset: The split.
        predict: The network.
        model: Its input, its joints, and how people are read from its output.
        evaluation: Batch size, flip test, how many images to measure on and how many of them may fail.
        images: Measure COCO images with measured persons, or all.
        boxes: COCO results file with detected persons, for a top-down evaluation without the annotated boxes; they
            are not clipped to their images, as the annotated ones are.
        runtime: What runs the network; recorded in the report.
        dataset_digest: Content digest of the data set.
        seed: Of the subset, when `evaluation.num_images` asks for one.
        predictions_file: Where the predictions go. For COCO results: `keypoints` are (x, y, score) in the data set's
            order, zero for joints that are not compared, and each row also has `annotation_id`, the annotated person
            that it shows or null. For MPII a list with, for each person whose image could be read, `image`, `person`
            (its number in the annotation file) and `keypoints` in MPII's order, in image pixels counted from 0.
            The table of images comes beside it, as `table_file` names it.
        artifact: Describes a written file.
        further: Measure other images than the subset that `evaluation.num_images` asks for: of all that it leaves,
            those from this number to that.
        keep_table: Keep what became of each image, too.
        shards: All parts of this measurement, made before by `predict_shard`: the network is not asked.

    Raises:
        ConfigError: The model and the data set have no joint in common; boxes or a flip test were asked for where there
            are none.
        DatasetError: No person of the split has such a joint; too many images fail; the annotations or the file with
            boxes cannot be used.
        CheckpointError: The network's output does not fit the configuration.
    """
    request = EvaluationRequest(
        predict=predict,
        model=model,
        evaluation=evaluation,
        images=images,
        boxes=boxes,
        runtime=runtime,
        dataset_digest=dataset_digest,
        seed=seed,
        predictions_file=predictions_file,
        artifact=artifact,
        further=further,
        keep_table=keep_table,
        shards=shards,
    )
    _check(dataset, request)
    return _FORMATS[dataset.kind.format](dataset, request)


def predict_shard(
    dataset: Dataset,
    predict: Predict,
    model: ModelConfig,
    evaluation: EvaluationConfig,
    *,
    images: Literal["with_persons", "all"] = "with_persons",
    boxes: Path | None = None,
    runtime: Runtime,
    seed: int,
    shard: Shard,
    file: Path,
    artifact: Callable[[Path], Artifact],
) -> PredictedShard:
    """Show a part of what a network is measured on to it, and keep what it found; `evaluate` counts all parts.

    Args:
        shard: Which part.
        file: Where its poses go.
        dataset: This and all others as of `evaluate`.
        predict: The network.
        model: Its input, its joints, and how people are read from its output.
        evaluation: How it is measured.
        images: Which COCO images.
        boxes: Detected persons.
        runtime: What runs the network.
        seed: Of the subset.
        artifact: Describes a written file.

    Raises:
        ConfigError: As of `evaluate`.
        DatasetError: As of `evaluate`; more images of this part fail than may of all.
        CheckpointError: The network's output does not fit the configuration.
    """
    request = PredictionRequest(
        predict=predict, model=model, evaluation=evaluation, images=images, boxes=boxes, runtime=runtime, seed=seed
    )
    _check(dataset, request)
    started = time.perf_counter()
    written = _SHARDS[dataset.kind.format](dataset, request, shard, file)
    return PredictedShard(
        runtime=runtime,
        number=shard.number,
        count=shard.count,
        inputs=written.inputs,
        poses=artifact(file),
        failed_images=written.failed.images,
        seconds=time.perf_counter() - started,
        cpu_features=cpu_features(),
    )


def _check(dataset: Dataset, request: PredictionRequest) -> None:
    codec, boxes = CODECS[request.model.codec], request.boxes
    if not dataset.kind.takes_detections and (codec.whole_images or boxes is not None):
        refused = f"codec {codec.name!r} and boxes are not for it" if codec.whole_images else "boxes are for COCO"
        raise ConfigError(f"{dataset.kind.title} is measured in crops by its own annotations: {refused}.")
    if codec.whole_images and (request.evaluation.flip_test or boxes is not None):
        raise ConfigError(f"Codec {codec.name!r} finds people in whole images: it takes no boxes and no flip test.")


def _predict_coco_shard(dataset: CocoDataset, request: PredictionRequest, shard: Shard, file: Path) -> WrittenShard:
    measured = coco.choose(dataset, request)
    failed = FailedImages(dataset.root, len(measured.dataset.images), request.evaluation.max_failed_images)
    if CODECS[request.model.codec].whole_images:
        return write_people(measured.dataset, request, shard, failed, file)
    if request.boxes is None:
        return write_persons(top_down.annotated_crops(measured, request), request, shard, failed, file)
    detected, _ = top_down.detected_crops(measured, dataset, request.boxes, request)
    return write_persons(detected, request, shard, failed, file)


def _evaluate_coco(dataset: CocoDataset, request: EvaluationRequest) -> EvaluationReport:
    measured = coco.choose(dataset, request)
    measured.read()
    failed = FailedImages(dataset.root, len(measured.dataset.images), request.evaluation.max_failed_images)
    codec, boxes = CODECS[request.model.codec], request.boxes

    started = time.perf_counter()
    if codec.whole_images:
        found = bottom_up.find_poses(measured, request, failed)
    elif boxes is None:
        found = top_down.find_in_annotated_boxes(measured, request, failed)
    else:
        found = top_down.find_in_detected_boxes(measured, dataset, boxes, request, failed)
    elapsed = time.perf_counter() - started

    rows = coco.write_results(measured, found.poses, request)
    accuracy = coco.score(measured, rows)
    return EvaluationReport(
        runtime=request.runtime,
        stats=accuracy.stats,
        by_group=accuracy.by_group,
        by_joint=accuracy.by_joint,
        fingerprint=ProtocolFingerprint(
            dataset_digest=request.dataset_digest,
            split=dataset.split,
            image_ids_digest=coco.ids_digest(measured.dataset),
            num_images=len(measured.dataset.images),
            num_persons=len(measured.persons),
            subset=measured.subset,
            box_source="whole_image" if codec.whole_images else "ground_truth" if boxes is None else "detector",
            boxes_digest=None if boxes is None else sha256_file(boxes),
            flip_test=request.evaluation.flip_test,
            decoder=codec.decoder if codec.whole_images else top_down.decoder_text(codec),
            input_size=request.model.input_size,
            joint_map=measured.joint_map,
            sigmas=measured.sigmas,
            metric=dataset.kind.metric,
        ),
        predictions=request.artifact(request.predictions_file),
        image_table=request.kept(lambda: coco.image_table(measured, rows)),
        crop_joints=request.kept_in_crops(found.in_crops),
        available_images=measured.available_images,
        failed_images=failed.images,
        images_per_second=(found.num_images - len(failed.images)) / request.seconds(elapsed),
        cpu_features=request.cpu_features,
        person_scores=coco.score_spread(rows) if boxes is None else None,
    )


_FORMATS: dict[str, Callable[[Any, EvaluationRequest], EvaluationReport]] = {
    "coco": _evaluate_coco,
    "mpii": evaluate_mpii,
}

_SHARDS: dict[str, Callable[[Any, PredictionRequest, Shard, Path], WrittenShard]] = {
    "coco": _predict_coco_shard,
    "mpii": predict_mpii_shard,
}
