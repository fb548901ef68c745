"""How far joints lie from where FP32 has them: what quantization does to the task, told without annotations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.pose.codecs.codec import CropCodec, ImageCodec
from hpe_tasks.pose.people import People

_FALLOFF = 0.075
"""Of a crop's longer side: a joint that is this far off keeps 61 % of its similarity.

OKS has 2·sigma·sqrt(area), with sigma between 0.026 and 0.107. In a crop that is 1.25 times as large as its person,
whose area is half of its box, the joints of the body (sigma 0.08) have this share.
"""

_SIDE_OF_SCALE = 200
"""Pixels in one unit of a crop's scale."""


class JointError:
    """Compares what a network gives with what FP32 gave for the same images.

    Args:
        config: Codec and input size.
        images: One batch for each size of the input, N×3×H×W.
        reference: FP32's outputs for each batch.
    """

    def __init__(self, config: ModelConfig, images: Sequence[NDArray[np.float32]], reference: Sequence[Arrays]) -> None:
        self._codec = CODECS[config.codec]
        self._sizes = [(batch.shape[3], batch.shape[2]) for batch in images]
        self._reference = reference
        self._decoded = [self._decode(arrays, size) for arrays, size in zip(reference, self._sizes, strict=True)]

    def of(self, outputs: Sequence[Arrays]) -> tuple[float, float]:
        """The joint error in [0, 1] (`hpe_tasks.records.mixed_precision`), and the noise of the outputs.

        The latter is their squared error relative to FP32's squared values.
        """
        lost = weight = noise = power = 0.0
        for arrays, wanted, size, decoded in zip(outputs, self._reference, self._sizes, self._decoded, strict=True):
            found = self._decode(arrays, size)
            for one, other in zip(decoded, found, strict=True):
                more_lost, more_weight = _compared(one, other, _FALLOFF * max(size))
                lost, weight = lost + more_lost, weight + more_weight
            noise += sum(float(np.square(arrays[name] - wanted[name]).sum()) for name in wanted)
            power += sum(float(np.square(each).sum()) for each in wanted.values())
        return lost / weight if weight else 0.0, noise / power if power else 0.0

    def _decode(self, arrays: Arrays, size: tuple[int, int]) -> list[_ImageJoints]:
        """The joints in each of the images, in pixels of the input."""
        count = len(next(iter(arrays.values())))
        if isinstance(self._codec, ImageCodec):
            people = [
                self._codec.decode({name: each[index] for name, each in arrays.items()}, size) for index in range(count)
            ]
            return [_of_people(each) for each in people]
        if not isinstance(self._codec, CropCodec):
            raise TypeError(f"codec {self._codec.name!r} is neither of crops nor of whole images")
        centers = np.full((count, 2), size, float) / 2
        scales = np.full((count, 2), size, float) / _SIDE_OF_SCALE
        joints, scores = self._codec.decode(arrays, centers, scales)
        weights = np.clip(scores.astype(np.float64), 0, None)
        return [
            _ImageJoints(points[None].astype(np.float64), each[None])
            for points, each in zip(joints, weights, strict=True)
        ]


class _ImageJoints:
    """People in one image: joints N×K×2 and what each counts, N×K; 0 where it was not found."""

    def __init__(self, joints: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
        self.joints = joints
        self.weights = weights


def _of_people(people: People) -> _ImageJoints:
    return _ImageJoints(people.joints.astype(np.float64), people.found.astype(np.float64))


def _compared(wanted: _ImageJoints, found: _ImageJoints, falloff: float) -> tuple[float, float]:
    """What is lost of the wanted joints, and what they count; people that nobody wanted count as lost, too."""
    lost = total = float(wanted.weights.sum())
    free = list(range(len(found.joints)))
    for joints, weights in zip(wanted.joints, wanted.weights, strict=True):
        kept = {other: _kept(joints, weights, found, other, falloff) for other in free}
        best = max(kept, key=lambda other: kept[other], default=None)
        if best is not None and kept[best] > 0:
            lost -= kept[best]
            free.remove(best)
    invented = float(found.weights[free].sum())
    return lost + invented, total + invented


def _kept(
    joints: NDArray[np.float64], weights: NDArray[np.float64], found: _ImageJoints, other: int, falloff: float
) -> float:
    distances = np.square(joints - found.joints[other]).sum(axis=-1)
    similarity = np.exp(-distances / (2 * falloff**2)) * (found.weights[other] > 0)
    return float((similarity * weights).sum())
