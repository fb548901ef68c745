"""Images that cannot be used, pixels as a network's input, and work that runs ahead in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NoReturn, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.coco import wrong_size
from hpe_tasks.data.image_files import Unreadable, read_image
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.codecs.pixels import input_levels

__all__ = [
    "OnUnreadable",
    "Unreadable",
    "by_position",
    "map_ahead",
    "normalized",
    "read_image",
    "readable",
    "refuse",
    "wrong_size",
]

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

_MAX_WORKERS = 8

# Tasks that each worker may be ahead of the consumer: enough to keep it busy, few enough to bound memory.
_AHEAD = 2


OnUnreadable = Callable[[Unreadable], None]
"""What becomes of an image that cannot be read, or does not fit its record: raises, or returns to go on without it."""


def refuse(image: Unreadable) -> NoReturn:
    """Raise DatasetError."""
    raise DatasetError(
        f"The image {image.path} {image.reason}.", hint="Fetch the file again, or correct or remove its record."
    )


def readable(results: Iterable[ResultT | Unreadable], unreadable: OnUnreadable) -> Iterator[ResultT]:
    """Leave out images that cannot be read, unless `unreadable` raises."""
    for result in results:
        if isinstance(result, Unreadable):
            unreadable(result)
        else:
            yield result


def by_position(items: Iterable[ResultT], size: int, position: Callable[[ResultT], int]) -> Iterator[list[ResultT]]:
    """Put what has come in order into batches by its positions: `size` of these make a batch, also where some are gone.

    So an image that cannot be read moves nothing into another batch, and whoever makes some of the batches alone makes
    them as they are among all. A network's last bits may depend on its batch.
    """
    batch: list[ResultT] = []
    for item in items:
        if batch and position(item) // size != position(batch[0]) // size:
            yield batch
            batch = []
        batch.append(item)
        if (position(item) + 1) % size == 0:
            # Nothing is asked for ahead of what is taken.
            yield batch
            batch = []
    if batch:
        yield batch


def normalized(bgr: NDArray[np.uint8], model: ModelConfig) -> NDArray[np.float32]:
    """Turn pixels H×W×3 BGR into a network's input 3×H×W: values in [0, 1], less the mean, by the deviation.

    The channels come in the model's `channel_order`.
    """
    planes = np.empty((3, *bgr.shape[:2]), np.float32)
    tables = input_levels(model.mean, model.std)
    channels = cv2.split(bgr) if model.channel_order == "bgr" else reversed(cv2.split(bgr))
    for plane, table, out in zip(channels, tables, planes, strict=True):
        cv2.LUT(plane, table, dst=out)
    return planes


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
