"""Persons and images placed at random for training and calibration: mirrored, turned, of other sizes, shifted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import CocoImage, in_whole_images
from hpe_tasks.data.dataset import Dataset, ImageCrops, Region
from hpe_tasks.inference.images import Unreadable, map_ahead, normalized, read_image, readable, refuse, wrong_size
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.crops import crop_matrix

Placement = tuple[NDArray[np.float64], bool]
"""Where an image's pixels go in the network's input, 2×3, and whether they are mirrored."""


class Amounts(Protocol):
    """How much is changed at most; see the settings of these names in `TrainingConfig`."""

    @property
    def flip_probability(self) -> float:
        """Share that is mirrored."""

    @property
    def rotation_degrees(self) -> float:
        """Largest turn."""

    @property
    def scale_range(self) -> float:
        """Largest change of the size, as a share."""

    @property
    def shift_range(self) -> float:
        """Largest shift, as a share of the size."""


@dataclass(frozen=True)
class CalibrationAmounts:
    """How much calibration images are changed: as a training does by default, without changes of colours."""

    flip_probability: float = 0.5
    rotation_degrees: float = 15.0
    scale_range: float = 0.15
    shift_range: float = 0.04


def place_crop(region: Region, size: tuple[int, int], amounts: Amounts, rng: np.random.Generator) -> Placement:
    """Place a person's crop.

    Args:
        region: Centre and scale of the crop as an evaluation cuts it out.
        size: (W, H) of the network's input.
        amounts: How much is changed at most.
        rng: Where the changes are drawn from.
    """
    (center, scale), (width, height) = region, size
    extent = scale * 200.0
    center = center + rng.uniform(-amounts.shift_range, amounts.shift_range, 2) * extent
    scale = scale * (1 + rng.uniform(-amounts.scale_range, amounts.scale_range))
    # Most people stand upright: turn only some crops, as Simple Baselines does.
    angle = rng.uniform(-amounts.rotation_degrees, amounts.rotation_degrees) if rng.random() < 0.6 else 0.0
    turn = np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0), [0, 0, 1]])
    matrix = turn @ np.vstack([crop_matrix(center, scale, (width, height)), [0, 0, 1]])
    flip = bool(rng.random() < amounts.flip_probability)
    return _mirrored(matrix, width) if flip else matrix[:2], flip


def place_image(
    image_size: tuple[int, int], size: tuple[int, int], amounts: Amounts, rng: np.random.Generator
) -> Placement:
    """Place a whole image of this (W, H); arguments as of `place_crop`."""
    width, height = size
    # As the evaluation resizes an image: the pixels' edges meet, not their centres.
    x, y = width / image_size[0], height / image_size[1]
    resize = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
    zoom = 1 + rng.uniform(-amounts.scale_range, amounts.scale_range)
    angle = rng.uniform(-amounts.rotation_degrees, amounts.rotation_degrees) if rng.random() < 0.6 else 0.0
    turn = np.vstack([cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, zoom), [0, 0, 1]])
    turn[:2, 2] += rng.uniform(-amounts.shift_range, amounts.shift_range, 2) * size
    matrix = turn @ resize
    flip = bool(rng.random() < amounts.flip_probability)
    return _mirrored(matrix, width) if flip else matrix[:2], flip


def _mirrored(matrix: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    mirror = np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])
    return (mirror @ matrix)[:2]


def missing_inputs(dataset: Dataset, model: ModelConfig, num_images: int) -> int:
    """How many more inputs this many images would give, at as many of each image as the data set's own give."""
    inputs = dataset.num_images if CODECS[model.codec].whole_images else dataset.num_persons
    missing = max(0, num_images - dataset.num_images)
    return -(-missing * inputs // dataset.num_images)


def augmented_batches(
    dataset: Dataset, model: ModelConfig, batch_size: int, num_inputs: int, seed: int
) -> Iterator[NDArray[np.float32]]:
    """Changed copies of a data set's crops or images, as `calibration_batches` gives those themselves.

    Args:
        dataset: What is copied, as often as it takes, each time changed otherwise.
        model: The network's input.
        batch_size: Inputs of a batch, at most.
        num_inputs: How many in all.
        seed: The same seed gives the same copies on every machine.

    Raises:
        DatasetError: An image cannot be read, or does not fit its record; names the file.
    """
    whole = CODECS[model.codec].whole_images
    inputs = islice(_images(dataset, model, seed) if whole else _crops(dataset, model, seed), num_inputs)
    while chunk := list(islice(inputs, batch_size)):
        sizes = {one.shape: None for one in chunk}
        for size in sizes:
            yield np.stack([one for one in chunk if one.shape == size])


def _crops(dataset: Dataset, model: ModelConfig, seed: int) -> Iterator[NDArray[np.float32]]:
    tasks = (
        (image, np.random.default_rng((seed, copy, number)))
        for copy in count()
        for number, image in enumerate(dataset.crops(model.input_size))
    )
    with closing(map_ahead(partial(_changed_crops, model), tasks)) as changed:
        for of_image in readable(changed, refuse):
            yield from of_image


def _images(dataset: Dataset, model: ModelConfig, seed: int) -> Iterator[NDArray[np.float32]]:
    images = in_whole_images(dataset)
    tasks = (
        (images.image_path(image), image, np.random.default_rng((seed, copy, number)))
        for copy in count()
        for number, image in enumerate(images.images)
    )
    with closing(map_ahead(partial(_changed_image, model), tasks)) as changed:
        yield from readable(changed, refuse)


def _changed_crops(
    model: ModelConfig, task: tuple[ImageCrops[Any], np.random.Generator]
) -> list[NDArray[np.float32]] | Unreadable:
    image, rng = task
    pixels = read_image(image.path)
    if isinstance(pixels, Unreadable):
        return pixels
    regions = image.regions((pixels.shape[1], pixels.shape[0]))
    if isinstance(regions, Unreadable):
        return regions
    return [
        _warped(pixels, place_crop(region, model.input_size, CalibrationAmounts(), rng), model) for region in regions
    ]


def _changed_image(model: ModelConfig, task: tuple[Any, CocoImage, np.random.Generator]) -> Any:
    path, image, rng = task
    pixels = read_image(path)
    if isinstance(pixels, Unreadable):
        return pixels
    size = pixels.shape[1], pixels.shape[0]
    if fault := wrong_size(path, image, size):
        return fault
    wanted = model.input_size_for(size)
    return _warped(pixels, place_image(size, wanted, CalibrationAmounts(), rng), model, wanted, cv2.BORDER_REPLICATE)


def _warped(
    pixels: NDArray[np.uint8],
    placement: Placement,
    model: ModelConfig,
    size: tuple[int, int] | None = None,
    border: int = cv2.BORDER_CONSTANT,
) -> NDArray[np.float32]:
    bgr = cv2.warpAffine(pixels, placement[0], size or model.input_size, flags=cv2.INTER_LINEAR, borderMode=border)
    return normalized(bgr.astype(np.uint8, copy=False), model)
