"""What became of each image in an evaluation: small tables from which its figures can be counted again.

An average precision or a PCKh of any multiset of the measured images follows from them without the images, the poses
or another matching, because an image's matches do not depend on other images. That is what resampling needs.
"""

from __future__ import annotations

import io
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import override

from hpe_tasks.metrics.coco_ap import PoseComparison
from hpe_tasks.metrics.matching import Matches, match
from hpe_tasks.metrics.weighted_ap import RankedResults, Runs, runs_of, weighted_ap

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]
"""B×N: how often each of N images is in each of B multisets."""

WHOLE = "all"
"""The part whose figure is the one that a model is judged by."""

SIZES: dict[str, tuple[float, float]] = {"medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Ranges of COCO, in square pixels."""


class ImageTable(ABC):
    """Figures of any multiset of images.

    Attributes:
        images: Ids or file names, sorted.
    """

    images: NDArray[Any]

    @property
    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """What there are figures of: `all`, and `size/…`, `crowd/…`, `group/…` or `joint/…`."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers that are looked at for one multiset."""

    @abstractmethod
    def figures(self, counts: Counts, parts: Sequence[str]) -> dict[str, Floats]:
        """The figure of each part over each of B multisets of images; NaN where no person in it counts."""

    @abstractmethod
    def joined(self, other: Self) -> Self:
        """With the images of another table, which has the same parts and none of these images."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """As a file, which `read_table` reads."""

    def whole(self) -> dict[str, float]:
        """The figure of each part over the images as they are."""
        once = np.ones((1, len(self.images)), dtype=np.int32)
        return {part: float(values[0]) for part, values in self.figures(once, self.parts).items()}


@dataclass(frozen=True, eq=False)
class MatchTable(ImageTable):
    """Average precisions: what became of D results in N images, for each part.

    Attributes:
        result_image: D: index of the image of each result, by falling score over all images.
        score: D.
        matches: By part.
    """

    images: NDArray[Any]
    result_image: NDArray[np.int32]
    score: Floats
    matches: Mapping[str, Matches]

    @cached_property
    def _ranked(self) -> RankedResults:
        return RankedResults.of(self.result_image, self.score, len(self.images))

    @cached_property
    def _runs(self) -> dict[str, tuple[Runs, ...]]:
        return {part: runs_of(self._ranked, matches) for part, matches in self.matches.items()}

    @property
    @override
    def parts(self) -> tuple[str, ...]:
        return tuple(self.matches)

    @property
    @override
    def width(self) -> int:
        return len(self._ranked.result)

    @override
    def figures(self, counts: Counts, parts: Sequence[str]) -> dict[str, Floats]:
        totals = self._ranked.running_totals(counts)
        return {part: weighted_ap(self._runs[part], counts @ self.matches[part].persons, totals) for part in parts}

    @override
    def joined(self, other: MatchTable) -> MatchTable:
        images, place = _united(self, other)
        image = place[np.concatenate((self.result_image, other.result_image + len(self.images)))].astype(np.int32)
        score = np.concatenate((self.score, other.score))
        order = np.lexsort((image, -score))
        matches = {}
        for part, one in self.matches.items():
            more = other.matches[part]
            persons = np.zeros(len(images), dtype=np.int32)
            persons[place] = np.concatenate((one.persons, more.persons))
            true, ignored = np.concatenate((one.true, more.true)), np.concatenate((one.ignored, more.ignored))
            matches[part] = Matches(true[order], ignored[order], persons)
        return MatchTable(images, image[order], score[order], matches)

    @override
    def to_bytes(self) -> bytes:
        kept = list(self.matches.values())
        return _packed(
            images=self.images,
            parts=np.array(self.parts),
            result_image=self.result_image,
            score=self.score,
            true=np.stack([one.true for one in kept]),
            ignored=np.stack([one.ignored for one in kept]),
            persons=np.stack([one.persons for one in kept]),
        )


@dataclass(frozen=True, eq=False)
class HitTable(ImageTable):
    """Percentages of right joints: hits among labelled joints, N×K each.

    A figure is the mean over its columns' percentages; with `pooled` the percentage of all of them together.

    Attributes:
        columns: By part, indices of joints.
        pooled: The parts whose joints are counted together.
    """

    images: NDArray[Any]
    hits: NDArray[np.int32]
    labelled: NDArray[np.int32]
    columns: Mapping[str, tuple[int, ...]]
    pooled: tuple[str, ...] = (WHOLE,)

    @property
    @override
    def parts(self) -> tuple[str, ...]:
        return tuple(self.columns)

    @property
    @override
    def width(self) -> int:
        return len(self.images)

    @override
    def figures(self, counts: Counts, parts: Sequence[str]) -> dict[str, Floats]:
        weights = counts.astype(np.float64)
        hits, labelled = weights @ self.hits, weights @ self.labelled
        figures: dict[str, Floats] = {}
        for part in parts:
            columns = list(self.columns[part])
            right, asked = hits[:, columns], labelled[:, columns]
            if part in self.pooled:
                right, asked = right.sum(axis=1, keepdims=True), asked.sum(axis=1, keepdims=True)
            known = asked > 0
            shares = np.divide(100.0 * right, asked, out=np.zeros_like(right), where=known)
            sides = known.sum(axis=1)
            figures[part] = np.divide(shares.sum(axis=1), sides, out=np.full(len(weights), np.nan), where=sides > 0)
        return figures

    @override
    def joined(self, other: HitTable) -> HitTable:
        images, place = _united(self, other)
        hits, labelled = np.empty((2, len(images), self.hits.shape[1]), dtype=np.int32)
        hits[place] = np.concatenate((self.hits, other.hits))
        labelled[place] = np.concatenate((self.labelled, other.labelled))
        return HitTable(images, hits, labelled, self.columns, self.pooled)

    @override
    def to_bytes(self) -> bytes:
        return _packed(
            images=self.images,
            parts=np.array(self.parts),
            pooled=np.array(self.pooled),
            hits=self.hits,
            labelled=self.labelled,
            columns=np.array([",".join(map(str, one)) for one in self.columns.values()]),
        )


def match_table(
    truth: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    parts: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    *,
    images: Sequence[int],
    sizes: Mapping[str, tuple[float, float]] | None = None,
    levels: Mapping[str, Sequence[int]] | None = None,
) -> MatchTable:
    """Match results to persons once for each part.

    Args:
        truth: COCO annotations, as `coco_stats` takes them.
        results: COCO results.
        parts: By name, the indices of the joints that are compared and the OKS sigma of each; WHOLE among them.
        images: Ids of all measured images, those without persons and results too.
        sizes: Ranges of area over the joints of WHOLE, as parts `size/…`; those of COCO are SIZES.
        levels: Ids of the images that alone count in a part `crowd/…`, over the joints of WHOLE.

    Raises:
        ValueError: As `coco_stats`; or a person or a result is in none of the images.
    """
    comparison = PoseComparison(truth, results)
    ids = np.unique(np.asarray(images, dtype=np.int64))
    if len(missing := np.setdiff1d(comparison.image_ids, ids)):
        raise ValueError(f"there are persons or results in image {missing[0]}, which is not among those measured")
    place = np.searchsorted(ids, comparison.image_ids)
    matches: dict[str, Matches] = {}
    for name, (joints, sigmas) in parts.items():
        compared = comparison.compare(joints, sigmas)
        matches[name] = match(compared)
        if name == WHOLE:
            image, score = compared.result_image, compared.score
            matches |= {f"size/{size}": match(compared, area) for size, area in (sizes or {}).items()}
    # By falling score; of equal scores those of the first image come first, as pycocotools sorts.
    order = np.argsort(-score, kind="stable")
    of_image = place[image[order]].astype(np.int32)
    sorted_matches = {}
    for name, one in matches.items():
        persons = np.zeros(len(ids), dtype=np.int32)
        persons[place] = one.persons
        sorted_matches[name] = Matches(one.true[order], one.ignored[order], persons)
    for level, members in (levels or {}).items():
        inside = np.isin(ids, np.asarray(members, dtype=np.int64))
        sorted_matches[f"crowd/{level}"] = _among(sorted_matches[WHOLE], inside, of_image)
    return MatchTable(ids, of_image, score[order], sorted_matches)


def _among(whole: Matches, inside: NDArray[np.bool_], result_image: NDArray[np.int32]) -> Matches:
    """Matches in some of the images: nothing else counts, for or against."""
    counts = inside[result_image]
    every = np.uint16(0xFFFF)
    return Matches(
        np.where(counts, whole.true, np.uint16(0)), np.where(counts, whole.ignored, every), whole.persons * inside
    )


def hit_table(
    images: Sequence[str], right: ArrayLike, labelled: ArrayLike, columns: Mapping[str, tuple[int, ...]]
) -> HitTable:
    """Count the hits of each image.

    Args:
        images: N: the image of each person.
        right: N×K: whether a joint was found; of one that is not labelled it does not matter.
        labelled: N×K.
        columns: By part, the indices of its joints.
    """
    names, where = np.unique(np.asarray(images), return_inverse=True)
    asked = np.asarray(labelled, dtype=np.bool_)
    hit = np.asarray(right, dtype=np.bool_) & asked
    hits, total = (np.zeros((len(names), asked.shape[1]), dtype=np.int32) for _ in range(2))
    np.add.at(hits, where, hit)
    np.add.at(total, where, asked)
    return HitTable(names, hits, total, dict(columns))


def table_file(predictions: Path) -> Path:
    """Where the table of a measurement lies: beside its predictions."""
    return predictions.with_name(f"{predictions.stem.replace('predictions', 'image_table')}.npz")


def read_table(content: bytes) -> ImageTable:
    """Read what `to_bytes` gave; raises ValueError where it is something else."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        parts = arrays.pop("parts").tolist()
        if "hits" in arrays:
            columns = [tuple(int(c) for c in text.split(",")) for text in arrays["columns"].tolist()]
            pooled = tuple(arrays["pooled"].tolist())
            return HitTable(
                arrays["images"], arrays["hits"], arrays["labelled"], dict(zip(parts, columns, strict=True)), pooled
            )
        rows = zip(arrays["true"], arrays["ignored"], arrays["persons"], strict=True)
        matches = dict(zip(parts, (Matches(*row) for row in rows), strict=True))
        return MatchTable(arrays["images"], arrays["result_image"], arrays["score"], matches)
    except (KeyError, OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"it is no table of images ({error})") from error


def _united(one: ImageTable, other: ImageTable) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The images of two tables, sorted, and where those of the first and then of the second are among them."""
    if set(one.parts) != set(other.parts):
        raise ValueError("the tables are of different parts")
    both = np.concatenate((one.images, other.images))
    images, place = np.unique(both, return_inverse=True)
    if len(images) != len(both):
        raise ValueError("the tables have images in common")
    return images, place


def _packed(**arrays: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()
