"""Networks on a device whose memory does not hold a whole batch: it is shown half of it, and that is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hpe_tasks.errors import ConfigError

R = TypeVar("R")

log = logging.getLogger(__name__)


class Portions:
    """Shows a network its images, as many at a time as have fitted so far.

    Args:
        remember: Called before each pass; what it gives is called where the pass has failed, and takes back what it has
            changed.
    """

    def __init__(self, remember: Callable[[], Callable[[], None]] | None = None) -> None:
        self._remember = remember
        self._most: int | None = None

    def run(self, images: NDArray[np.float32], forward: Callable[[NDArray[np.float32]], R]) -> list[R]:
        """What a network gives for all images, portion by portion, in their order.

        Args:
            images: N×3×H×W.
            forward: One pass.

        Raises:
            ConfigError: The memory does not suffice for one image.
        """
        given: list[R] = []
        begin = 0
        while begin < len(images) or not given:
            portion = images[begin : begin + (self._most or len(images))]
            take_back = self._remember() if self._remember else None
            try:
                given.append(forward(portion))
                begin += len(portion)
                continue
            except torch.OutOfMemoryError as error:
                self._most = halved(len(portion), "image", error)
            # Not before the handler's end: the error holds what the failed pass had made.
            if take_back is not None:
                take_back()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning("The memory does not suffice: from here on, %d images at a time.", self._most)
        return given


def halved(size: int, what: str, error: Exception) -> int:
    """Half as many as the memory did not suffice for; raises ConfigError where it was one."""
    if size <= 1:
        raise ConfigError(
            f"The GPU's memory does not suffice for one {what}.", hint="Choose a smaller input or network."
        ) from error
    return (size + 1) // 2
