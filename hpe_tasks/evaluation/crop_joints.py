"""Where a network found each joint in its own input: what two of its forms are compared by, joint by joint.

Predictions count image pixels, after duplicates were dropped. Whether a quantized network sees what FP32 sees is asked
of every crop, in the pixels that the network has.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.inference import PosedPersons
from hpe_tasks.pose.crops import JOINT_SCORE_THRESHOLD
from hpe_tasks.records.comparison import SHIFTS_PX, JointShifts, PixelParity
from hpe_tasks.records.evaluation import Runtime


@dataclass(frozen=True, eq=False)
class CropJoints:
    """The compared joints of N crops.

    Attributes:
        crops: N, the name of each: its image's file and its number there.
        joints: N×K×2 float32, in pixels of the network's input, from its middle.
        scores: N×K float32.
        cells: N×K, where the network's output was largest.
    """

    crops: NDArray[np.str_]
    joints: NDArray[np.float32]
    scores: NDArray[np.float32]
    cells: NDArray[np.int32]

    def to_bytes(self) -> bytes:
        """As a file; `read_crop_joints` reads it."""
        stream = io.BytesIO()
        np.savez_compressed(stream, **{field.name: getattr(self, field.name) for field in fields(self)})
        return stream.getvalue()


def crop_joints_file(predictions: Path) -> Path:
    """Where the joints of a measurement's crops lie: beside its predictions."""
    return predictions.with_name(f"{predictions.stem.replace('predictions', 'crop_joints')}.npz")


def read_crop_joints(content: bytes) -> CropJoints:
    """Read what `to_bytes` gave."""
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return CropJoints(**{field.name: file[field.name] for field in fields(CropJoints)})


class CropJointsLog:
    """Takes the crops of a measurement, batch by batch.

    Args:
        channels: Of the network's joints, those that are compared.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        self._channels = list(channels)
        self._seen: Counter[str] = Counter()
        self._parts: list[CropJoints] = []

    def add(self, batch: PosedPersons[Any]) -> None:
        """Keep what was found in a batch. The crops of an image must come in the same order each time."""
        names = []
        for file in batch.files:
            names.append(f"{file}#{self._seen[file]}")
            self._seen[file] += 1
        chosen = (slice(None), self._channels)
        self._parts.append(
            CropJoints(
                np.array(names),
                batch.in_crops[chosen],
                batch.poses.scores[chosen],
                batch.cells[chosen].astype(np.int32),
            )
        )

    def joined(self) -> CropJoints | None:
        """All of them; None where there was no crop."""
        if not self._parts:
            return None
        return CropJoints(*(np.concatenate([getattr(p, f.name) for p in self._parts]) for f in fields(CropJoints)))


def pixel_parity(forms: Sequence[tuple[Runtime, CropJoints]]) -> tuple[PixelParity, ...]:
    """Compare neighbours, and the first with the last: FP32 with QuantSim, that with the file, FP32 with the file.

    Crops that only one of two has, because an image could not be read, are left out; a pair without a common crop is.
    """
    pairs = [*pairwise(forms), *([(forms[0], forms[-1])] if len(forms) > 2 else [])]
    compared = (_parity(one, other) for one, other in pairs)
    return tuple(parity for parity in compared if parity is not None)


def _parity(one: tuple[Runtime, CropJoints], other: tuple[Runtime, CropJoints]) -> PixelParity | None:
    (before, reference), (after, changed) = one, other
    _, rows, others = np.intersect1d(reference.crops, changed.crops, return_indices=True)
    if not len(rows):
        return None
    distances = np.linalg.norm(reference.joints[rows].astype(np.float64) - changed.joints[others], axis=-1)
    same = reference.cells[rows] == changed.cells[others]
    sure = reference.scores[rows] > JOINT_SCORE_THRESHOLD
    return PixelParity(
        between=(before, after),
        crops=len(rows),
        sure=_shifts(distances[sure], same[sure]) if sure.any() else None,
        every=_shifts(distances.ravel(), same.ravel()),
    )


def _shifts(distances: NDArray[np.float64], same: NDArray[np.bool_]) -> JointShifts:
    # What float32 cannot tell apart counts as no distance.
    return JointShifts(
        joints=len(distances),
        median_px=float(np.median(distances)),
        p99_px=float(np.quantile(distances, 0.99)),
        largest_px=float(distances.max()),
        within=tuple(float((distances <= reach + 1e-3).mean()) for reach in SHIFTS_PX),
        same_cell=float(same.mean()),
    )
