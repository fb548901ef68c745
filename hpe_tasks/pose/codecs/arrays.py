"""What a network gives, by name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float32]]
"""The outputs of a network for N inputs, by its codec's names; the first axis of each counts the inputs."""
