"""COCO's matching of results to persons, of all images at once: what an average precision is counted from.

The rule is that of `COCOeval.evaluateImg`: results by falling score, each takes the person who is most similar among
those who are still free; one who counts before one who is ignored; a crowd is never used up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Of OKS, as COCOeval has them."""

_ALMOST_ONE = 1 - 1e-10
_NO_PERSON = -1.0


@dataclass(frozen=True, eq=False)
class ComparedImages:
    """D results and G persons of N images, compared over some joints; both are grouped by image.

    Attributes:
        images: N.
        person_image: G: index of the image.
        person_area: G: square pixels.
        uncounted: G: a crowd, or a person without a labelled joint among those compared.
        crowd: G.
        result_image: D: index of the image; results of an image by falling score.
        result_area: D: square pixels of the box around the compared joints.
        score: D.
        similarity: OKS of each result with each person of its image, result after result.
    """

    images: int
    person_image: NDArray[np.intp]
    person_area: Floats
    uncounted: NDArray[np.bool_]
    crowd: NDArray[np.bool_]
    result_image: NDArray[np.intp]
    result_area: Floats
    score: Floats
    similarity: Floats


@dataclass(frozen=True, eq=False)
class Matches:
    """What became of D results at each of THRESHOLDS: bit t of a number is about threshold t.

    Attributes:
        true: D: the result shows a person who counts.
        ignored: D: it counts neither for nor against; with neither bit it is a false one.
        persons: N: persons of each image who count.
    """

    true: NDArray[np.uint16]
    ignored: NDArray[np.uint16]
    persons: NDArray[np.int32]


def match(compared: ComparedImages, area: tuple[float, float] = (0.0, np.inf)) -> Matches:
    """Match the results of every image among persons whose area lies in a range, ends included."""
    low, high = area
    outside = (compared.person_area < low) | (compared.person_area > high)
    ignored = compared.uncounted | outside
    image = compared.person_image
    persons = np.bincount(image[~ignored], minlength=compared.images).astype(np.int32)

    places = np.bincount(image, minlength=compared.images)
    widest = max(1, int(places.max(initial=0)))
    place = np.arange(len(image)) - (np.cumsum(places) - places)[image]
    results = len(compared.result_image)
    # One row for each result, or image, and one column for each person of an image; no person is dissimilar enough.
    similarity = np.full((results, widest), _NO_PERSON)
    similarity[np.arange(widest) < places[compared.result_image, None]] = compared.similarity
    is_ignored, is_crowd = (np.zeros((compared.images, widest), dtype=np.bool_) for _ in range(2))
    is_ignored[image, place], is_crowd[image, place] = ignored, compared.crowd

    true, unjudged = (np.zeros((results, len(THRESHOLDS)), dtype=np.bool_) for _ in range(2))
    found = compared.result_image
    rank = np.arange(results) - np.searchsorted(found, found)
    free = np.ones((compared.images, widest, len(THRESHOLDS)), dtype=np.bool_)
    for turn in range(int(rank.max(initial=-1)) + 1):
        rows = np.flatnonzero(rank == turn)
        where = found[rows]
        chosen, matched = _choose(similarity[rows], free[where] | is_crowd[where, :, None], is_ignored[where])
        of_ignored = np.take_along_axis(is_ignored[where], chosen, axis=1)
        true[rows], unjudged[rows] = matched & ~of_ignored, matched & of_ignored
        taken, threshold = np.nonzero(matched)
        free[where[taken], chosen[taken, threshold], threshold] = False
    too_small_or_large = (compared.result_area < low) | (compared.result_area > high)
    unjudged |= ~true & ~unjudged & too_small_or_large[:, None]
    return Matches(_bits(true), _bits(unjudged), persons)


def _choose(
    similarity: Floats, free: NDArray[np.bool_], ignored: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """For each row and threshold the person who is taken, and whether anyone is; of equals, the last one listed."""
    possible = (similarity[..., None] >= np.minimum(THRESHOLDS, _ALMOST_ONE)) & free
    counted = possible & ~ignored[..., None]
    possible = np.where(counted.any(axis=1, keepdims=True), counted, possible)
    ranked = np.where(possible, similarity[..., None], _NO_PERSON)
    last = ranked.shape[1] - 1 - ranked[:, ::-1].argmax(axis=1)
    return last, np.asarray(possible.any(axis=1))


def _bits(flags: NDArray[np.bool_]) -> NDArray[np.uint16]:
    return np.asarray((flags * (1 << np.arange(len(THRESHOLDS)))).sum(axis=1), dtype=np.uint16)
