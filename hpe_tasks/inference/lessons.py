"""Images that a quantized network learns from without labels: shifted, resized, turned and mirrored anew each time.

Of a person's annotation only the box is read, which says where the crop lies; of an image that is shown whole, nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import in_whole_images
from hpe_tasks.data.dataset import Dataset, ImageCrops
from hpe_tasks.errors import DatasetError
from hpe_tasks.inference.augmentation import Amounts, CalibrationAmounts, place_crop, place_image
from hpe_tasks.inference.crops import crop_batches
from hpe_tasks.inference.images import Unreadable, map_ahead, normalized, read_image, refuse
from hpe_tasks.inference.whole_images import whole_image_batches
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.codecs.arrays import Arrays

_HELD_OUT = 5
"""One image of so many is set apart, and never learnt from."""

_MOST_HELD_OUT = 64
"""Images that are set apart at most: what they judge is one number."""


@dataclass(frozen=True, eq=False)
class _Person:
    """One person of an image."""

    image: ImageCrops[Any]
    number: int
    size: tuple[int, int]

    def view(self, amounts: Amounts, rng: np.random.Generator) -> NDArray[np.uint8]:
        pixels = _pixels(read_image(self.image.path))
        regions = self.image.regions((pixels.shape[1], pixels.shape[0]))
        if isinstance(regions, Unreadable):
            refuse(regions)
        matrix, _ = place_crop(regions[self.number], self.size, amounts, rng)
        return _warped(pixels, matrix, self.size, cv2.BORDER_CONSTANT)


@dataclass(frozen=True, eq=False)
class _Image:
    """One image, shown whole."""

    path: Path
    size: tuple[int, int]

    def view(self, amounts: Amounts, rng: np.random.Generator) -> NDArray[np.uint8]:
        pixels = _pixels(read_image(self.path))
        matrix, _ = place_image((pixels.shape[1], pixels.shape[0]), self.size, amounts, rng)
        return _warped(pixels, matrix, self.size, cv2.BORDER_REPLICATE)


@dataclass(frozen=True, eq=False)
class UnlabelledBatch:
    """One step's worth of views.

    Attributes:
        images: N×3×H×W float32, normalized.
        targets: Empty: nothing says what the network should give.
        weights: Empty.
    """

    images: NDArray[np.float32]
    targets: Arrays = field(default_factory=dict)
    weights: Arrays = field(default_factory=dict)


class UnlabelledLessons:
    """Views of calibration images to learn from, and some images set apart to judge by.

    A view depends on the seed, the epoch and the person (or the image) only.

    Args:
        dataset: The calibration images.
        model: How they are presented to the network.
        seed: Another seed gives other views in another order.
        batch_size: Views in a step.
        amounts: How much views are changed at most; by default as a training does.

    Raises:
        DatasetError: There are fewer than two images: none could be set apart.
    """

    augmented = True
    labelled = False

    def __init__(
        self, dataset: Dataset, model: ModelConfig, *, seed: int, batch_size: int, amounts: Amounts | None = None
    ) -> None:
        ids = dataset.image_ids
        if len(ids) < 2:
            raise DatasetError(
                "A quantized network cannot learn from one image: another one must judge what it has learnt.",
                hint="Raise recipe.calibration_images, or take a larger dataset.calibration_split.",
            )
        apart = set(ids[::_HELD_OUT][:_MOST_HELD_OUT])
        self._model, self._seed, self._batch_size = model, seed, batch_size
        self._amounts = CalibrationAmounts() if amounts is None else amounts
        self._apart = dataset.subset(apart)
        self._examples = _examples(dataset.subset(image for image in ids if image not in apart), model)
        whole = CODECS[model.codec].whole_images
        self.num_learnt = len(self._examples)
        self.num_held_out = self._apart.num_images if whole else self._apart.num_persons

    def held_out(self) -> Iterator[NDArray[np.float32]]:
        """What is set apart, as an evaluation shows it."""
        if CODECS[self._model.codec].whole_images:
            return whole_image_batches(in_whole_images(self._apart), self._model, self._batch_size)
        crops = crop_batches(self._apart.crops(self._model.input_size), self._model, self._batch_size)
        return (batch.images for batch in crops)

    def batches(self, first: int, steps: int) -> Iterator[UnlabelledBatch]:
        """Give the batches of so many steps, from step `first` on, while threads make those that follow.

        Raises:
            DatasetError: An image cannot be read, or does not fit its record; names the file.
        """
        plan = list(islice(self._plan(), first, first + steps))
        with closing(map_ahead(self._view, (view for batch in plan for view in batch))) as views:
            for batch in plan:
                yield UnlabelledBatch(np.stack(list(islice(views, len(batch)))))

    def _plan(self) -> Iterator[list[tuple[int, int]]]:
        """Every step's views, as (epoch, index): all once in an epoch, those of one size of input together."""
        for epoch in count():
            rng = np.random.default_rng((self._seed, epoch))
            sizes: dict[tuple[int, int], list[tuple[int, int]]] = {}
            for index in rng.permutation(len(self._examples)):
                sizes.setdefault(self._examples[index].size, []).append((epoch, int(index)))
            size = self._batch_size
            batches = [alike[i : i + size] for alike in sizes.values() for i in range(0, len(alike), size)]
            yield from (batches[i] for i in rng.permutation(len(batches)))

    def _view(self, chosen: tuple[int, int]) -> NDArray[np.float32]:
        rng = np.random.default_rng((self._seed, *chosen))
        return normalized(self._examples[chosen[1]].view(self._amounts, rng), self._model)


def _examples(dataset: Dataset, model: ModelConfig) -> list[_Person | _Image]:
    """Every person, or every whole image, as the codec asks."""
    if not CODECS[model.codec].whole_images:
        crops = dataset.crops(model.input_size)
        return [_Person(image, number, model.input_size) for image in crops for number in range(len(image.persons))]
    split = in_whole_images(dataset)
    return [_Image(split.image_path(i), model.input_size_for((i.width, i.height))) for i in split.images]


def _pixels(read: NDArray[np.uint8] | Unreadable) -> NDArray[np.uint8]:
    if isinstance(read, Unreadable):
        refuse(read)
    return read


def _warped(
    pixels: NDArray[np.uint8], matrix: NDArray[np.float64], size: tuple[int, int], border: int
) -> NDArray[np.uint8]:
    shown = cv2.warpAffine(pixels, matrix, size, flags=cv2.INTER_LINEAR, borderMode=border)
    return shown.astype(np.uint8, copy=False)
