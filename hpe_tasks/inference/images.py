"""Image files as pixels, pixels as a network's input, and work that runs ahead in threads.

Coordinates are pixels of the image as it is stored. The annotations of COCO and MPII refer to those, so an EXIF
orientation is not applied.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config import ModelConfig
from hpe_tasks.data.coco import CocoImage
from hpe_tasks.errors import DatasetError

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

_MAX_WORKERS = 8

# Tasks that each worker may be ahead of the consumer: enough to keep it busy, few enough to bound memory.
_AHEAD = 2


@dataclass(frozen=True)
class Unreadable:
    """An image that is missing or cannot be decoded, and why: "is missing", for example."""

    path: Path
    reason: str


OnUnreadable = Callable[[Unreadable], None]
"""What becomes of an image that cannot be read: raises, or returns to go on without it."""


def refuse(image: Unreadable) -> None:
    """Raise DatasetError."""
    raise DatasetError(f"The image {image.path} {image.reason}.", hint="Fetch the file again, or remove its record.")


def readable(results: Iterable[ResultT | Unreadable], unreadable: OnUnreadable) -> Iterator[ResultT]:
    """Leave out images that cannot be read, unless `unreadable` raises."""
    for result in results:
        if isinstance(result, Unreadable):
            unreadable(result)
        else:
            yield result


def read_image(path: Path) -> NDArray[np.uint8] | Unreadable:
    """Decode an image as H×W×3 BGR of 8 bits, without turning it by its EXIF orientation.

    Grey, CMYK, 16-bit and palette images are converted, transparency is dropped. A file that is cut off anywhere is
    not decoded: from memory, OpenCV refuses a JPEG that ends before its last pixel.
    """
    try:
        encoded = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        return Unreadable(path, "is missing")
    except OSError as error:
        return Unreadable(path, f"cannot be read: {error.strerror}")
    if encoded[:4].tobytes() == b"GIF8":
        return Unreadable(path, "is a GIF, which may hold many pictures; it must be a JPEG or PNG")
    try:
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if encoded.size else None
    except cv2.error:
        pixels = None
    if pixels is None:
        return Unreadable(path, "is not an image, or is cut off" if encoded.size else "is an empty file")
    return pixels.astype(np.uint8, copy=False)


def check_size(path: Path, image: CocoImage, size: tuple[int, int]) -> None:
    """Raise DatasetError when an image's (W, H) is not that of its record."""
    if size != (image.width, image.height):
        raise DatasetError(
            f"{path} is {size[0]}×{size[1]} pixels, but its record says {image.width}×{image.height}.",
            hint="Annotations refer to the size in the record: use the original image, or correct both.",
        )


def normalized(bgr: NDArray[np.uint8], model: ModelConfig) -> NDArray[np.float32]:
    """Turn pixels H×W×3 BGR into a network's input 3×H×W RGB: values in [0, 1], less the mean, by the deviation."""
    planes = np.empty((3, *bgr.shape[:2]), np.float32)
    tables = _levels(model.mean, model.std)
    for plane, table, out in zip(reversed(cv2.split(bgr)), tables, planes, strict=True):
        cv2.LUT(plane, table, dst=out)
    return planes


@lru_cache(maxsize=16)
def _levels(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """What each of the 256 levels becomes in each channel: 3×256."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    return (levels - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]


def map_ahead(
    function: Callable[[TaskT], ResultT], tasks: Iterable[TaskT], *, at_least: int = 1
) -> Generator[ResultT, None, None]:
    """Map in threads and in order, never more than a few results ahead; stops cleanly when the consumer does.

    Tasks are drawn in the calling thread, so that a network may make them, while the threads work on those before.

    Args:
        function: Called in a thread.
        tasks: Drawn as results are taken.
        at_least: Tasks that are under way at a time, if two for each worker are fewer.
    """
    workers = min(_MAX_WORKERS, os.cpu_count() or 1)
    remaining = iter(tasks)
    waiting: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="hpe-ahead") as pool:
        try:
            for task in islice(remaining, max(workers * _AHEAD, at_least)):
                waiting.append(pool.submit(function, task))
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(function, task) for task in islice(remaining, 1))
                yield done
        finally:
            for future in waiting:
                future.cancel()
