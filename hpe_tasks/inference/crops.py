"""Top-down: persons cut out of their images, and the joints that a network finds in each crop."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import CocoDataset, Person
from hpe_tasks.data.dataset import ImageCrops, Region
from hpe_tasks.data.mpii import MpiiDataset, MpiiPerson
from hpe_tasks.inference.images import (
    OnUnreadable,
    Unreadable,
    by_position,
    map_ahead,
    normalized,
    read_image,
    readable,
    refuse,
)
from hpe_tasks.inference.predictors import Predict, check_outputs
from hpe_tasks.pose.codecs import crop_codec
from hpe_tasks.pose.crops import PIXEL_STD, Poses, crop_matrix

__all__ = [
    "CropBatch",
    "ImageCrops",
    "PosedPersons",
    "Region",
    "crop_batches",
    "find_poses",
    "mpii_batches",
    "person_batches",
]

PersonT = TypeVar("PersonT")


@dataclass(frozen=True, eq=False)
class CropBatch(Generic[PersonT]):
    """Persons as a network sees them.

    Attributes:
        images: N×3×H×W float32, in the model's `channel_order`, normalized.
        persons: Whom the crops show.
        files: Names of the image files that they were cut out of.
        centers: N×2, in image pixels.
        scales: N×2, in units of 200 pixels.
        positions: N, where each person stands among all, those of images that could not be read included.
    """

    images: NDArray[np.float32]
    persons: tuple[PersonT, ...]
    files: tuple[str, ...]
    centers: NDArray[np.float64]
    scales: NDArray[np.float64]
    positions: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PosedPersons(Generic[PersonT]):
    """Persons with the joints that a network found: all channels of the network, in its order.

    Attributes:
        poses: Joints in image pixels and their scores.
        scales: N×2, of the crops, in units of 200 pixels.
        files: Names of the image files that the crops were cut out of.
        in_crops: N×K×2, the joints in pixels of the network's input, from its middle.
        cells: N×K, where the network's output was largest.
        positions: N, where each person stands among all.
    """

    persons: tuple[PersonT, ...]
    poses: Poses
    scales: NDArray[np.float64]
    files: tuple[str, ...]
    in_crops: NDArray[np.float32]
    cells: NDArray[np.int64]
    positions: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Crop(Generic[PersonT]):
    position: int
    pixels: NDArray[np.float32]
    person: PersonT
    file: str
    center: NDArray[np.float64]
    scale: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Placed(Generic[PersonT]):
    """An image, where its first person stands among all, and which of these positions are wanted."""

    image: ImageCrops[PersonT]
    first: int
    wanted: range

    @property
    def is_wanted(self) -> bool:
        """Whether it shows anybody who is."""
        return self.first < self.wanted.stop and self.wanted.start < self.first + len(self.image.persons)


def person_batches(
    dataset: CocoDataset,
    config: ModelConfig,
    batch_size: int,
    persons: Sequence[Person] | None = None,
    unreadable: OnUnreadable = refuse,
) -> Iterator[CropBatch[Person]]:
    """Cut COCO persons out of their images by their annotated boxes, as the network wants them.

    Args:
        dataset: Where the images lie.
        config: Input size and normalization.
        batch_size: Persons in a batch; the last one may be smaller.
        persons: Whom to cut out, those of an image together; by default all persons of the data set, by image id and
            annotation id.
        unreadable: What becomes of an image that is missing, cannot be decoded, has another size than its record says
            or does not hold a person's box; its persons are left out.

    Raises:
        DatasetError: By default there is such an image; names the file.
    """
    return crop_batches(dataset.crops(config.input_size, persons), config, batch_size, unreadable)


def mpii_batches(
    dataset: MpiiDataset, config: ModelConfig, batch_size: int, unreadable: OnUnreadable = refuse
) -> Iterator[CropBatch[MpiiPerson]]:
    """Cut MPII persons out of their images by annotated centre and scale, as the network wants them.

    Persons of one image come together, images in the order in which the split first names them.

    Raises:
        DatasetError: An image is missing or cannot be decoded; names the file.
    """
    return crop_batches(dataset.crops(config.input_size), config, batch_size, unreadable)


def crop_batches(
    images: Iterable[ImageCrops[PersonT]],
    config: ModelConfig,
    batch_size: int,
    unreadable: OnUnreadable = refuse,
    batches: range | None = None,
) -> Iterator[CropBatch[PersonT]]:
    """Cut persons out of their images, as the network wants them.

    Every image is decoded once, in parallel with others; few are held at a time, so memory does not depend on how
    many there are. The order stays, and which persons share a batch depends on nothing but their positions.

    Args:
        images: What to cut out of each image.
        config: Input size and normalization.
        batch_size: Persons in a batch; the last one may be smaller, and one with persons of an unreadable image is.
        unreadable: What becomes of an image that is missing, cannot be decoded or does not fit its records; its
            persons are left out.
        batches: Numbers of the batches that are wanted; other images are not read. All by default.

    Raises:
        DatasetError: By default there is such an image; names the file.
    """
    # While the network runs on a batch, the next one is made: an image shows about two persons.
    tasks = _placed(images, _positions(batches, batch_size))
    with closing(map_ahead(partial(_cut_persons, config), tasks, at_least=batch_size // 2)) as cut:
        crops = (crop for in_image in readable(cut, unreadable) for crop in in_image)
        for batch in by_position(crops, batch_size, lambda crop: crop.position):
            yield CropBatch(
                images=np.stack([crop.pixels for crop in batch]),
                persons=tuple(crop.person for crop in batch),
                files=tuple(crop.file for crop in batch),
                centers=np.stack([crop.center for crop in batch]),
                scales=np.stack([crop.scale for crop in batch]),
                positions=np.array([crop.position for crop in batch], dtype=np.int64),
            )


def _positions(batches: range | None, batch_size: int) -> range:
    return range(sys.maxsize) if batches is None else range(batches.start * batch_size, batches.stop * batch_size)


def _placed(images: Iterable[ImageCrops[PersonT]], wanted: range) -> Iterator[_Placed[PersonT]]:
    """The images that show anybody who is wanted."""
    first = 0
    for image in images:
        if first >= wanted.stop:
            return
        placed = _Placed(image, first, wanted)
        if placed.is_wanted:
            yield placed
        first += len(image.persons)


def _cut_persons(config: ModelConfig, placed: _Placed[PersonT]) -> list[_Crop[PersonT]] | Unreadable:
    image = placed.image
    pixels = read_image(image.path)
    if isinstance(pixels, Unreadable):
        return pixels
    regions = image.regions((pixels.shape[1], pixels.shape[0]))
    if isinstance(regions, Unreadable):
        return regions
    crops = []
    shown = zip(image.persons, regions, strict=True)
    for position, (person, (center, scale)) in enumerate(shown, placed.first):
        if position not in placed.wanted:
            continue
        matrix = crop_matrix(center, scale, config.input_size)
        bgr = cv2.warpAffine(
            pixels, matrix, config.input_size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0
        ).astype(np.uint8, copy=False)
        crops.append(_Crop(position, normalized(bgr, config), person, image.path.name, center, scale))
    return crops


def find_poses(
    batches: Iterable[CropBatch[PersonT]], predict: Predict, config: ModelConfig, *, flip_test: bool = False
) -> Iterator[PosedPersons[PersonT]]:
    """Find the joints of persons who were cut out.

    Args:
        batches: The persons.
        predict: The network.
        config: The joints that it predicts, and how they are read.
        flip_test: Average its outputs with those of the mirrored crops.

    Raises:
        CheckpointError: The network's outputs have other shapes than the codec asks for, or are not finite; names the
            files whose outputs are not.
    """
    codec, flip_pairs = crop_codec(config.codec), config.joints.flip_pairs
    for batch in batches:
        outputs = predict(batch.images)
        check_outputs(outputs, batch.files, config)
        if flip_test:
            mirrored = predict(np.ascontiguousarray(batch.images[..., ::-1]))
            check_outputs(mirrored, batch.files, config)
            outputs = codec.averaged(outputs, mirrored, flip_pairs)
        joints, scores = codec.decode(outputs, batch.centers, batch.scales)
        # Crops are upright and keep their sides' ratio: one factor for both axes.
        enlarged = config.input_size[0] / (batch.scales[:, 0] * PIXEL_STD)
        in_crops = (joints - batch.centers[:, None]) * enlarged[:, None, None]
        yield PosedPersons(
            batch.persons,
            Poses(joints, scores),
            batch.scales,
            batch.files,
            in_crops.astype(np.float32),
            codec.best_cells(outputs),
            batch.positions,
        )
