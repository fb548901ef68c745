"""What all trainings share: batches, images in memory, and random changes of their colours."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import cv2
import numpy as np
import numpy.typing as npt

from hpe_tasks.data.coco import CocoDataset, CocoImage
from hpe_tasks.inference.images import Unreadable, read_image, refuse
from hpe_tasks.pose.codecs.arrays import Arrays


@dataclass(frozen=True, eq=False)
class Batch:
    """One step's worth of crops or scenes.

    Attributes:
        images: N×3×H×W float32, RGB, normalized.
        targets: What the network should give, by the codec's names.
        weights: By the same names a factor on the loss: N×C, or of the targets' shape.
    """

    images: npt.NDArray[np.float32]
    targets: Arrays
    weights: Arrays


class TrainingImages:
    """The images of a split; decoded ones are kept as long as the memory for them lasts.

    Args:
        dataset: The split.
        cache_mb: The memory, in MB (1e6 bytes); what does not fit is decoded each time.
    """

    def __init__(self, dataset: CocoDataset, cache_mb: int) -> None:
        self._dataset, self._room_bytes = dataset, cache_mb * 1_000_000
        self._cache: dict[int, npt.NDArray[np.uint8]] = {}
        self._counting = Lock()

    def read(self, image: CocoImage) -> npt.NDArray[np.uint8]:
        """Give an image H×W×3 in red, green, blue; raises DatasetError when it cannot be read."""
        cached = self._cache.get(image.id)
        if cached is not None:
            return cached
        decoded = read_image(self._dataset.image_path(image))
        if isinstance(decoded, Unreadable):
            refuse(decoded)
        pixels = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
        with self._counting:  # several threads read
            if image.id not in self._cache and pixels.nbytes <= self._room_bytes:
                self._cache[image.id] = pixels
                self._room_bytes -= pixels.nbytes
        return pixels


def jitter(pixels: npt.NDArray[np.uint8], amount: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Change brightness and contrast at random, each channel's a little by itself; gives H×W×3 in [0, 1].

    Args:
        pixels: H×W×3.
        amount: Largest change, as a share.
        rng: Where the changes are drawn from.
    """
    gain = 1 + rng.uniform(-amount, amount) + rng.uniform(-amount, amount, 3) * 0.4
    offset = rng.uniform(-amount, amount) * 0.5
    values = pixels.astype(np.float32) / np.float32(255)
    changed: npt.NDArray[np.float32] = np.clip(values * gain.astype(np.float32) + np.float32(offset), 0, 1)
    return changed
