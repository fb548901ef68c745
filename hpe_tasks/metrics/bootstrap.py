"""The paired bootstrap over images: how far the difference of two models' figures may lie from what was measured.

A resample draws as many images as were measured, with replacement, and both models are counted on the same ones: what
makes an image hard for both falls out of the difference. Images are drawn and not persons, because those of one image
share its light, its blur and each other (a cluster bootstrap). Sources: Efron and Tibshirani, "An Introduction to the
Bootstrap" (1993), chapters 8 and 13 (percentile intervals); Davison and Hinkley, "Bootstrap Methods and their
Application" (1997), section 3.8 (clusters); Koehn, "Statistical Significance Tests for Machine Translation Evaluation"
(2004), for the paired form on a figure that is no mean.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.metrics.image_tables import ImageTable

Floats = NDArray[np.float64]

_CELLS_AT_ONCE = 1 << 18
"""Results times multisets that are counted at once: what stays in a processor's second cache."""

_MOST_AT_ONCE = 256


def paired_differences(
    before: ImageTable, after: ImageTable, *, resamples: int, seed: int, parts: Sequence[str] | None = None
) -> dict[str, Floats]:
    """The difference `after` - `before` of each part's figure in each resample; NaN where one has no person who counts.

    The same seed gives the same numbers whatever the number of processors.

    Args:
        before: The reference.
        after: What is compared with it, on the same images.
        resamples: How many to draw.
        seed: Of the draws.
        parts: Those of both tables by default.

    Raises:
        ValueError: The tables are of different images, or of none.
    """
    if not np.array_equal(before.images, after.images):
        raise ValueError("the tables are of different images: nothing can be paired")
    images = len(before.images)
    if not images:
        raise ValueError("there are no images to draw")
    asked = [part for part in before.parts if part in after.parts] if parts is None else list(parts)
    size = int(np.clip(_CELLS_AT_ONCE // max(images, before.width, after.width), 1, _MOST_AT_ONCE))
    sizes = [min(size, resamples - start) for start in range(0, resamples, size)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))

    def differences(number: int) -> dict[str, Floats]:
        counts = draw_images(images, sizes[number], np.random.default_rng(seeds[number]))
        old, new = before.figures(counts, asked), after.figures(counts, asked)
        return {part: new[part] - old[part] for part in asked}

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        blocks = list(threads.map(differences, range(len(sizes))))
    return {part: np.concatenate([block[part] for block in blocks]) for part in asked}


def draw_images(images: int, resamples: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Resamples×images: how often each image was drawn."""
    drawn = rng.integers(0, images, (resamples, images), dtype=np.int32)
    drawn += (np.arange(resamples, dtype=np.int32) * images)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * images).reshape(resamples, images).astype(np.int32)


def interval(differences: Floats, confidence: float) -> tuple[float, float] | None:
    """The percentile interval of resampled differences; None where no resample has one."""
    known = differences[~np.isnan(differences)]
    if not len(known):
        return None
    tail = (1 - confidence) / 2
    # The outer neighbours: an interval from few resamples is rather too wide.
    low, high = np.quantile(known, tail, method="lower"), np.quantile(known, 1 - tail, method="higher")
    return float(low), float(high)
