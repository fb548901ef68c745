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
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from hpe_tasks.codecs.heatmap import Poses, box_to_center_scale, crop_matrix, decode_heatmaps
from hpe_tasks.config import ModelConfig
from hpe_tasks.data.coco import CocoImage, CocoKeypoints, Person
from hpe_tasks.errors import CheckpointError, DatasetError
from hpe_tasks.onnx_session import onnx_predictor

__all__ = [
    "CropBatch",
    "ImageCrops",
    "PosedPersons",
    "Predict",
    "Region",
    "crop_batches",
    "find_poses",
    "fp32_predictor",
    "onnx_predictor",
    "person_batches",
    "predict",
]

PersonT = TypeVar("PersonT")
TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

Region = tuple[NDArray[np.float64], NDArray[np.float64]]
"""What a crop shows: its centre (x, y) in image pixels, and its scale (w, h) in units of 200 pixels."""

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A network: normalized N×3×H×W float32 → heatmaps N×J×h×w float32."""

_MAX_WORKERS = 8

# Images that each worker may be ahead of the consumer: enough to keep it busy, few enough to bound memory.
_AHEAD = 2


@dataclass(frozen=True, eq=False)
class ImageCrops(Generic[PersonT]):
    """Persons who are to be cut out of one image.

    Attributes:
        regions: The crop of each person, given the (W, H) of the decoded image; raises DatasetError when the image or
            a record cannot be used.
    """

    path: Path
    persons: tuple[PersonT, ...]
    regions: Callable[[tuple[int, int]], Sequence[Region]]


@dataclass(frozen=True, eq=False)
class CropBatch(Generic[PersonT]):
    """Persons as a network sees them.

    Attributes:
        images: N×3×H×W float32, RGB, normalized.
        persons: Whom the crops show.
        centers: N×2, in image pixels.
        scales: N×2, in units of 200 pixels.
    """

    images: NDArray[np.float32]
    persons: tuple[PersonT, ...]
    centers: NDArray[np.float64]
    scales: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PosedPersons(Generic[PersonT]):
    """Persons with the joints that a network found: all channels of the network, in its order.

    Attributes:
        poses: Keypoints in image pixels and heatmap maxima.
        scales: N×2, of the crops, in units of 200 pixels.
    """

    persons: tuple[PersonT, ...]
    poses: Poses
    scales: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Crop(Generic[PersonT]):
    pixels: NDArray[np.float32]
    person: PersonT
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
) -> Iterator[CropBatch[Person]]:
    """Cut COCO persons out of their images by their boxes, as the network wants them.

    Args:
        dataset: Where the images lie.
        config: Input size and normalization.
        batch_size: Persons in a batch; the last one may be smaller.
        persons: Whom to cut out, those of an image together; by default all persons of the data set, by image id and
            annotation id.

    Raises:
        DatasetError: An image is missing, cannot be decoded, or has another size than its record says; a box
            lies outside its image. Names the file.
    """
    return crop_batches(
        _coco_crops(dataset, config, dataset.all_persons() if persons is None else persons), config, batch_size
    )


def crop_batches(
    images: Iterable[ImageCrops[PersonT]], config: ModelConfig, batch_size: int
) -> Iterator[CropBatch[PersonT]]:
    """Cut persons out of their images, as the network wants them.

    Every image is decoded once, in parallel with others; few are held at a time, so memory does not depend on how
    many there are. The order stays.

    Args:
        images: What to cut out of each image.
        config: Input size and normalization.
        batch_size: Persons in a batch; the last one may be smaller.

    Raises:
        DatasetError: An image is missing or cannot be decoded, or `ImageCrops.regions` refuses it.
    """
    workers = min(_MAX_WORKERS, os.cpu_count() or 1)

    def cut(image: ImageCrops[PersonT]) -> list[_Crop[PersonT]]:
        return _cut_persons(image, config)

    crops = (crop for in_image in _map_ahead(cut, images, workers) for crop in in_image)
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
) -> Iterator[PosedPersons[Person]]:
    """Find the joints of COCO persons whose boxes are known.

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
    return find_poses(person_batches(dataset, config, batch_size, persons), predict, config)


def find_poses(
    batches: Iterable[CropBatch[PersonT]], predict: Predict, config: ModelConfig
) -> Iterator[PosedPersons[PersonT]]:
    """Find the joints of persons who were cut out; raises CheckpointError as `predict` does."""
    for batch in batches:
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


def _coco_crops(dataset: CocoKeypoints, config: ModelConfig, persons: Sequence[Person]) -> Iterator[ImageCrops[Person]]:
    records = {image.id: image for image in dataset.images}
    for image_id, group in groupby(persons, key=lambda p: p.image_id):
        image, in_image = records[image_id], tuple(group)
        path = dataset.image_path(image)
        yield ImageCrops(path, in_image, partial(_box_regions, path, image, in_image, config.input_size))


def _box_regions(
    path: Path, image: CocoImage, persons: Sequence[Person], input_size: tuple[int, int], size: tuple[int, int]
) -> list[Region]:
    if size != (image.width, image.height):
        raise DatasetError(
            f"{path} is {size[0]}×{size[1]} pixels, but its record says {image.width}×{image.height}.",
            hint="Annotations refer to the size in the record: use the original image, or correct both.",
        )
    regions = []
    for person in persons:
        try:
            regions.append(box_to_center_scale(person.box, size, input_size))
        except DatasetError as error:
            raise DatasetError(
                f"Annotation {person.annotation_id} of {path}: {error.message}", hint=error.hint
            ) from error
    return regions


def _map_ahead(function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], workers: int) -> Iterator[ResultT]:
    """Map in threads and in order, never more than a few results ahead; stops cleanly when the consumer does."""
    remaining = iter(tasks)
    waiting: deque[Future[ResultT]] = deque()
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


def _cut_persons(image: ImageCrops[PersonT], config: ModelConfig) -> list[_Crop[PersonT]]:
    pixels = _read_image(image.path)
    height, width = pixels.shape[:2]
    mean = np.array(config.mean, dtype=np.float32)
    std = np.array(config.std, dtype=np.float32)
    crops = []
    for person, (center, scale) in zip(image.persons, image.regions((width, height)), strict=True):
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
