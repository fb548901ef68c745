"""From photographs to poses: crops of persons, networks that turn them into heatmaps, and the decoded joints.

Coordinates are pixels of the image as it is stored. COCO's annotations refer to those, so an EXIF orientation is not
applied.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hpe_tasks.codecs.heatmap import Poses, box_to_center_scale, crop_matrix, decode_heatmaps
from hpe_tasks.config import ModelConfig
from hpe_tasks.data.coco import CocoImage, CocoKeypoints, Person
from hpe_tasks.errors import CheckpointError, DatasetError
from hpe_tasks.onnx_session import onnx_predictor

__all__ = ["CropBatch", "PosedPersons", "Predict", "fp32_predictor", "onnx_predictor", "person_batches", "predict"]

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A network: normalized N×3×H×W float32 → heatmaps N×J×h×w float32."""

_MAX_WORKERS = 8

# Images that each worker may be ahead of the consumer: enough to keep it busy, few enough to bound memory.
_AHEAD = 2


@dataclass(frozen=True, eq=False)
class CropBatch:
    """Persons as a network sees them.

    Attributes:
        images: N×3×H×W float32, RGB, normalized.
        persons: Whom the crops show.
        centers: N×2, in image pixels.
        scales: N×2, in units of 200 pixels.
    """

    images: NDArray[np.float32]
    persons: tuple[Person, ...]
    centers: NDArray[np.float64]
    scales: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PosedPersons:
    """Persons with the joints that a network found: all channels of the network, in its order.

    Attributes:
        poses: Keypoints in image pixels and heatmap maxima.
        scales: N×2, of the crops, in units of 200 pixels.
    """

    persons: tuple[Person, ...]
    poses: Poses
    scales: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Crop:
    pixels: NDArray[np.float32]
    person: Person
    center: NDArray[np.float64]
    scale: NDArray[np.float64]


def fp32_predictor(config: ModelConfig, checkpoint: Path, device: str) -> Predict:
    """Load a checkpoint as it came and run it in float32.

    Args:
        config: The architecture; `onnx` runs the file in onnxruntime on the CPU, whatever the device.
        checkpoint: Weights, or the ONNX file.
        device: "cpu" or "cuda".

    Raises:
        CheckpointError: The file cannot be read or does not fit the architecture.
    """
    if config.architecture == "onnx":
        return onnx_predictor(checkpoint, config)

    import torch

    from hpe_tasks.models import build_model
    from hpe_tasks.models.checkpoint import load_checkpoint

    network = build_model(config)
    load_checkpoint(network, checkpoint)
    network = network.to(device).eval()

    def run(images: NDArray[np.float32]) -> NDArray[np.float32]:
        # TF32, the default of cuDNN, keeps ten bits of a float32: the baseline must be float32, and repeatable.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            heatmaps = network(torch.from_numpy(images).to(device))
        result: NDArray[np.float32] = heatmaps.float().cpu().numpy()
        return result

    return run


def person_batches(
    dataset: CocoKeypoints, config: ModelConfig, batch_size: int, persons: Sequence[Person] | None = None
) -> Iterator[CropBatch]:
    """Cut persons out of their images, as the network wants them.

    Every image is decoded once, in parallel with others; few are held at a time, so memory does not depend on how
    many there are. The order is that of `persons`, which must keep the persons of an image together.

    Args:
        dataset: Where the images lie.
        config: Input size and normalization.
        batch_size: Persons in a batch; the last one may be smaller.
        persons: Whom to cut out; by default all persons of the data set, by image id and annotation id.

    Raises:
        DatasetError: An image is missing, cannot be decoded, or has another size than its record says; a box
            lies outside its image. Names the file.
    """
    crops = _crops(dataset, config, dataset.all_persons() if persons is None else persons)
    while batch := tuple(islice(crops, batch_size)):
        yield CropBatch(
            images=np.stack([crop.pixels for crop in batch]),
            persons=tuple(crop.person for crop in batch),
            centers=np.stack([crop.center for crop in batch]),
            scales=np.stack([crop.scale for crop in batch]),
        )


def predict(
    dataset: CocoKeypoints,
    predict: Predict,
    config: ModelConfig,
    batch_size: int,
    persons: Sequence[Person] | None = None,
) -> Iterator[PosedPersons]:
    """Find the joints of persons whose boxes are known.

    Args:
        dataset: Where the images lie.
        predict: The network.
        config: Its input, and the joints that it predicts.
        batch_size: Persons in one forward pass.
        persons: Whose joints to find; by default those of all persons of the data set.

    Raises:
        DatasetError: As `person_batches`.
        CheckpointError: The network's output is not N×J×h×w with J the configured joints, or is not finite.
    """
    for batch in person_batches(dataset, config, batch_size, persons):
        heatmaps = predict(batch.images)
        _check_heatmaps(heatmaps, len(batch.persons), config)
        keypoints, scores = decode_heatmaps(heatmaps, batch.centers, batch.scales)
        yield PosedPersons(batch.persons, Poses(keypoints, scores), batch.scales)


def _check_heatmaps(heatmaps: NDArray[np.float32], count: int, config: ModelConfig) -> None:
    joints = len(config.joints.joints)
    if heatmaps.ndim != 4 or heatmaps.shape[:2] != (count, joints):
        raise CheckpointError(
            f"The network's output has the shape {heatmaps.shape}; heatmaps of {count} persons with {joints} joints "
            f"({config.joints.name}) have ({count}, {joints}, height, width).",
            hint="Set model.skeleton or model.joint_names to the joints that the network predicts, "
            "and model.output_layout and model.output_name to where the heatmaps are.",
        )
    if not np.isfinite(heatmaps).all():
        raise CheckpointError(
            "The network's heatmaps hold NaN or infinite values.",
            hint="The weights are broken, or the input's normalization (model.mean, model.std) is not the network's.",
        )


def _crops(dataset: CocoKeypoints, config: ModelConfig, persons: Sequence[Person]) -> Iterator[_Crop]:
    records = {image.id: image for image in dataset.images}
    groups = ((records[image_id], tuple(group)) for image_id, group in groupby(persons, key=lambda p: p.image_id))
    workers = min(_MAX_WORKERS, os.cpu_count() or 1)

    def cut(task: tuple[CocoImage, tuple[Person, ...]]) -> list[_Crop]:
        image, group = task
        return _cut_persons(dataset.image_path(image), image, group, config)

    for crops in _map_ahead(cut, groups, workers):
        yield from crops


def _map_ahead(
    function: Callable[[tuple[CocoImage, tuple[Person, ...]]], list[_Crop]],
    tasks: Iterable[tuple[CocoImage, tuple[Person, ...]]],
    workers: int,
) -> Iterator[list[_Crop]]:
    """Map in threads and in order, never more than a few results ahead; stops cleanly when the consumer does."""
    remaining = iter(tasks)
    waiting: deque[Future[list[_Crop]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            waiting.extend(pool.submit(function, task) for task in islice(remaining, workers * _AHEAD))
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(function, task) for task in islice(remaining, 1))
                yield done
        finally:
            for future in waiting:
                future.cancel()


def _cut_persons(path: Path, image: CocoImage, persons: Sequence[Person], config: ModelConfig) -> list[_Crop]:
    pixels = _read_image(path)
    height, width = pixels.shape[:2]
    if (width, height) != (image.width, image.height):
        raise DatasetError(
            f"{path} is {width}×{height} pixels, but its record says {image.width}×{image.height}.",
            hint="Annotations refer to the size in the record: use the original image, or correct both.",
        )
    mean = np.array(config.mean, dtype=np.float32)
    std = np.array(config.std, dtype=np.float32)
    crops = []
    for person in persons:
        try:
            center, scale = box_to_center_scale(person.box, (width, height), config.input_size)
        except DatasetError as error:
            raise DatasetError(
                f"Annotation {person.annotation_id} of {path}: {error.message}", hint=error.hint
            ) from error
        matrix = crop_matrix(center, scale, config.input_size)
        bgr = cv2.warpAffine(
            pixels, matrix, config.input_size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
        )
        rgb = bgr[:, :, ::-1].astype(np.float32) / np.float32(255)
        normalized = np.ascontiguousarray(((rgb - mean) / std).transpose(2, 0, 1))
        crops.append(_Crop(normalized, person, center, scale))
    return crops


def _read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image as H×W×3 BGR, without turning it by its EXIF orientation."""
    try:
        encoded = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError as error:
        raise DatasetError(f"The image {path} is missing.", hint="Add the file or remove its record.") from error
    except OSError as error:
        raise DatasetError(f"The image {path} cannot be read: {error.strerror}.", hint="Check its rights.") from error
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if encoded.size else None
    except cv2.error as error:
        raise _not_an_image(path) from error
    if pixels is None:
        raise _not_an_image(path)
    return pixels.astype(np.uint8, copy=False)


def _not_an_image(path: Path) -> DatasetError:
    return DatasetError(f"{path} is not an image, or is cut off.", hint="Fetch the file again, or remove its record.")
