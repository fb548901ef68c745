"""Bottom-up: whole images as a network sees them, and all people that are read from its maps.

Three stages that run beside each other: files are read and resized in threads, the network runs in the calling thread,
and its maps are read in threads again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import CocoDataset, CocoImage
from hpe_tasks.errors import CheckpointError
from hpe_tasks.inference.images import (
    OnUnreadable,
    Unreadable,
    by_position,
    map_ahead,
    normalized,
    read_image,
    readable,
    refuse,
    wrong_size,
)
from hpe_tasks.inference.predictors import Predict, check_outputs
from hpe_tasks.pose.codecs import ImageCodec, image_codec
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.pose.people import People


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image as a network sees it: 3×H×W float32, in its `channel_order`, normalized.

    It is wide or high as `ModelConfig.input_size_for` says.
    """

    image: CocoImage
    pixels: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ImageMaps:
    """What a network gave for an image, by the codec's names and without the first axis."""

    image: CocoImage
    outputs: Arrays


@dataclass(frozen=True, eq=False)
class PeopleInImage:
    """The people that were found in an image, in pixels of the image."""

    image: CocoImage
    people: People


def find_people(
    dataset: CocoDataset,
    predict: Predict,
    config: ModelConfig,
    batch_size: int,
    unreadable: OnUnreadable = refuse,
    batches: range | None = None,
) -> Iterator[PeopleInImage]:
    """Find the people in every image of a data set, in its order.

    Args:
        dataset: Where the images lie.
        predict: The network.
        config: Its input.
        batch_size: Images that are read before the network runs on them, once for the wide and once for the high ones.
        unreadable: What becomes of an image that is missing, cannot be decoded or has another size than its record
            says; it is left out.
        batches: Numbers of the batches that are wanted, as they are among all; other images are not read. All by
            default.

    Raises:
        DatasetError: By default there is such an image; names the file.
        CheckpointError: The network's outputs have other shapes than the codec asks for or are not finite, or cannot
            be those of a trained network; names the files whose outputs are at fault.
    """
    with closing(_prepare_ahead(dataset, config, batch_size, batches)) as prepared:
        chunks = _chunks(dataset, readable(prepared, unreadable), batch_size)
        maps = (one for chunk in chunks for one in predict_maps(chunk, predict, config))
        decode = partial(decode_image, codec=image_codec(config.codec))
        # A batch's maps come at once: all can be read while the network runs on the next one.
        with closing(map_ahead(decode, maps, at_least=batch_size)) as found:
            yield from found


def whole_image_batches(dataset: CocoDataset, config: ModelConfig, batch_size: int) -> Iterator[NDArray[np.float32]]:
    """Give all images of a data set as the network sees them, N×3×H×W with N at most `batch_size`, each of one size.

    Raises:
        DatasetError: An image cannot be read, or has another size than its record says; names the file.
    """
    with closing(_prepare_ahead(dataset, config, batch_size)) as prepared:
        for chunk in _chunks(dataset, readable(prepared, refuse), batch_size):
            for indices in _by_size(chunk):
                yield np.stack([chunk[i].pixels for i in indices])


def prepare_image(dataset: CocoDataset, config: ModelConfig, image: CocoImage) -> PreparedImage | Unreadable:
    """Read an image, resize it to the network's input and normalize it, or say why it cannot be used."""
    path = dataset.image_path(image)
    pixels = read_image(path)
    if isinstance(pixels, Unreadable):
        return pixels
    size = pixels.shape[1], pixels.shape[0]
    if fault := wrong_size(path, image, size):
        return fault
    resized = cv2.resize(pixels, config.input_size_for(size), interpolation=cv2.INTER_LINEAR)
    return PreparedImage(image, normalized(resized.astype(np.uint8, copy=False), config))


def predict_maps(images: Sequence[PreparedImage], predict: Predict, config: ModelConfig) -> list[ImageMaps]:
    """Run the network on images, once for each size of input; raises CheckpointError as `find_people` does."""
    maps: dict[int, ImageMaps] = {}
    for indices in _by_size(images):
        outputs = predict(np.stack([images[i].pixels for i in indices]))
        check_outputs(outputs, [images[i].image.file_name for i in indices], config)
        for row, i in enumerate(indices):
            maps[i] = ImageMaps(images[i].image, {name: array[row] for name, array in outputs.items()})
    return [maps[i] for i in range(len(images))]


def decode_image(found: ImageMaps, codec: ImageCodec) -> PeopleInImage:
    """Read the people from the maps of an image; raises CheckpointError as `find_people` does."""
    try:
        people = codec.decode(found.outputs, (found.image.width, found.image.height))
    except CheckpointError as error:
        raise CheckpointError(f"{found.image.file_name}: {error.message}", hint=error.hint) from error
    return PeopleInImage(found.image, people)


def _prepare_ahead(
    dataset: CocoDataset, config: ModelConfig, batch_size: int, batches: range | None = None
) -> Generator[PreparedImage | Unreadable, None, None]:
    images = dataset.images
    if batches is not None:
        images = images[batches.start * batch_size : batches.stop * batch_size]
    # While the network runs on a batch, the next one is made.
    return map_ahead(partial(prepare_image, dataset, config), images, at_least=batch_size)


def _chunks(dataset: CocoDataset, images: Iterator[PreparedImage], size: int) -> Iterator[list[PreparedImage]]:
    places = {image.id: place for place, image in enumerate(dataset.images)}
    return by_position(images, size, lambda one: places[one.image.id])


def _by_size(images: Sequence[PreparedImage]) -> list[list[int]]:
    """Indices of the images of each size of input: wide and high ones cannot share a batch."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        sizes.setdefault(image.pixels.shape, []).append(i)
    return list(sizes.values())
