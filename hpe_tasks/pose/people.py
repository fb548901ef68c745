"""The people of an image, as a codec reads them from whole images. Needs numpy only: AWS Lambda ships this module."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.contract.frozen import frozen


@frozen
class People:
    """The people of one image.

    Attributes:
        joints: N×17×2 float32, (x, y) in image pixels; (0, 0) for a joint that was not found.
        found: N×17, whether the joint was found.
        scores: N float32.
    """

    joints: NDArray[np.float32]
    found: NDArray[np.bool_]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)
