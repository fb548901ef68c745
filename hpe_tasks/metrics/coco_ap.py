"""COCO's evaluation of poses, by faster-coco-eval, over any of the joints.

Similarities are computed here for many images at once; faster-coco-eval matches and accumulates. Every number equals
that of pycocotools, which is the reference: the tests compare both.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from hpe_tasks.metrics.matching import ComparedImages
from hpe_tasks.pose.skeletons import COCO17

Rows = Sequence[Mapping[str, Any]]
Floats = NDArray[np.float64]

MAX_RESULTS = 20
"""COCO counts this many results of an image, those with the best scores."""

_CATEGORY = 1
_COORDINATES = 3
_COCO_LENGTH = _COORDINATES * len(COCO17.joints)
_PAIRS_AT_ONCE = 1 << 12

_log = logging.getLogger(__name__)


class PoseComparison:
    """Annotated persons and results, read once, to be compared over one set of joints after another.

    Args:
        truth: COCO annotations, as `coco_stats` takes them.
        results: COCO results.

    Attributes:
        image_ids: Of the images that persons or results are in, sorted.

    Raises:
        ValueError: Poses differ in their number of joints; a joint or the score of a result is not a finite number.
    """

    def __init__(self, truth: Rows, results: Rows) -> None:
        # Where no person has joints, any number of them will do.
        length = max((len(row.get("keypoints") or ()) for row in (*truth, *results)), default=0) or _COCO_LENGTH
        poses, scores = _joints(results, length)[..., :2], _column(results, "score", np.float64)
        _check_finite(poses, scores, results)
        images, where = np.unique(_column([*truth, *results], "image_id", np.int64), return_inverse=True)
        self.image_ids = images
        person_image, found_image = where[: len(truth)], where[len(truth) :]

        # Image after image: persons as the file has them, results by falling score.
        order = np.argsort(person_image, kind="stable")
        person_image, annotations = person_image[order], [truth[index] for index in order]
        self._joints = _joints(annotations, length)
        self._boxes = np.array([row.get("bbox") or (0,) * 4 for row in annotations], dtype=np.float64).reshape(-1, 4)
        self._areas = np.array([row.get("area") or 0 for row in annotations], dtype=np.float64)
        self._labelled = np.array([bool(row.get("num_keypoints")) for row in annotations], dtype=np.bool_)
        self._persons = _rows(
            person_image, area=self._areas, iscrowd=[int(row.get("iscrowd") or 0) for row in annotations]
        )
        order = np.lexsort((-scores, found_image))
        ranks = np.arange(len(order)) - np.searchsorted(found_image[order], found_image[order])
        order = order[ranks < MAX_RESULTS]
        found_image, self._poses = found_image[order], poses[order]
        self._results = _rows(found_image, score=scores[order])
        self._person_index = _index(self._persons, len(images))
        self._result_index = _index(self._results, len(images))

        # Pairs: every result with every person of its image, result after result.
        persons, self._image_results = (
            np.bincount(image, minlength=len(images)) for image in (person_image, found_image)
        )
        self._image_pairs = np.concatenate(([0], np.cumsum(persons * self._image_results)))
        partners = persons[found_image]
        self._pair_result = np.repeat(np.arange(len(found_image)), partners)
        offsets = np.arange(len(self._pair_result)) - np.repeat(np.cumsum(partners) - partners, partners)
        self._pair_person = np.repeat(np.searchsorted(person_image, found_image), partners) + offsets

    def evaluate(self, joints: Sequence[int], sigmas: Sequence[float], *, sizes: bool) -> COCOeval_faster:
        """Match and accumulate over `joints`; with `sizes` also among medium and large persons alone."""
        columns = list(joints)
        visible = (self._joints[:, columns, 2] > 0).sum(axis=1) * self._labelled
        for row, count in zip(self._persons, visible.tolist(), strict=True):
            row["num_keypoints"] = count
        poses = self._poses[:, columns]
        for row, area in zip(self._results, np.ptp(poses, axis=1).prod(axis=1).tolist(), strict=True):
            row["area"] = area
        pairs = self._similarities(columns, np.asarray(sigmas, dtype=np.float64))

        def similarities(image: int, _category: int) -> Floats:
            of_image = pairs[self._image_pairs[image] : self._image_pairs[image + 1]]
            return of_image.reshape(self._image_results[image], -1)

        evaluation = COCOeval_faster(
            self._person_index, self._result_index, "keypoints", kpt_oks_sigmas=list(sigmas), print_function=_log.debug
        )
        evaluation.computeOks = similarities
        if not sizes:
            evaluation.params.areaRng = evaluation.params.areaRng[:1]
            evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation

    def compare(self, joints: Sequence[int], sigmas: Sequence[float]) -> ComparedImages:
        """What `evaluate` matches, for the images of `image_ids`."""
        columns = list(joints)
        labelled = (self._joints[:, columns, 2] > 0).any(axis=1) & self._labelled
        crowd = np.array([row["iscrowd"] for row in self._persons], dtype=np.bool_)
        return ComparedImages(
            images=len(self.image_ids),
            person_image=_column(self._persons, "image_id", np.intp),
            person_area=self._areas,
            uncounted=crowd | ~labelled,
            crowd=crowd,
            result_image=_column(self._results, "image_id", np.intp),
            result_area=np.ptp(self._poses[:, columns], axis=1).prod(axis=1),
            score=_column(self._results, "score", np.float64),
            similarity=self._similarities(columns, np.asarray(sigmas, dtype=np.float64)),
        )

    def _similarities(self, columns: list[int], sigmas: Floats) -> Floats:
        """The OKS of every pair over the joints that its person has labelled."""
        truth, poses = self._joints[:, columns], self._poses[:, columns]
        labelled = truth[..., 2] > 0
        variances = (sigmas * 2) ** 2
        similarity = np.empty(len(self._pair_result))
        for start in range(0, len(similarity), _PAIRS_AT_ONCE):
            block = slice(start, start + _PAIRS_AT_ONCE)
            person, pose = self._pair_person[block], poses[self._pair_result[block]]
            offsets = pose - truth[person, :, :2]
            compared = labelled[person]
            unlabelled = ~compared.any(axis=1)
            # Of a person without labelled joints, COCOeval compares with a box three times as large.
            offsets[unlabelled] = _outside(pose[unlabelled], self._boxes[person[unlabelled]])
            compared[unlabelled] = True
            extents = (self._areas[person] + np.spacing(1))[:, None]
            errors = (offsets[..., 0] ** 2 + offsets[..., 1] ** 2) / variances / extents / 2
            similarity[block] = _mean_similarity(errors, compared)
        return similarity


def _mean_similarity(errors: Floats, compared: NDArray[np.bool_]) -> Floats:
    """The mean of exp(-error) over the compared joints, summed as pycocotools sums: without gaps, to the last bit."""
    means = np.empty(len(errors))
    counts = compared.sum(axis=1)
    for count in np.unique(counts):
        rows = counts == count
        means[rows] = np.exp(-errors[rows][compared[rows]].reshape(-1, count)).sum(axis=1) / count
    return means


def _outside(points: Floats, boxes: Floats) -> Floats:
    """How far N×K×2 points lie outside boxes (x, y, w, h) grown by their size on every side."""
    corners, sizes = boxes[:, None, :2], boxes[:, None, 2:]
    below = np.maximum(0, corners - sizes - points)
    return below + np.maximum(0, points - (corners + sizes * 2))


def _joints(rows: Rows, length: int) -> Floats:
    """N×K×3; zeros where an annotation has none."""
    lists = [row.get("keypoints") or (0,) * length for row in rows]
    for row, numbers in zip(rows, lists, strict=True):
        if len(numbers) != length:
            raise ValueError(f"image {row['image_id']} has a pose of {len(numbers)} numbers where others have {length}")
    return np.array(lists, dtype=np.float64).reshape(len(rows), length // _COORDINATES, _COORDINATES)


def _check_finite(poses: Floats, scores: Floats, results: Rows) -> None:
    finite = np.isfinite(poses).all(axis=(1, 2)) & np.isfinite(scores)
    if not finite.all():
        first = int(finite.argmin())
        raise ValueError(
            f"result {first} (image {results[first]['image_id']}) has a joint or a score that is not a finite number"
        )


def _column(rows: Rows, key: str, dtype: Any) -> NDArray[Any]:
    return np.array([row[key] for row in rows], dtype=dtype)


def _rows(images: NDArray[np.intp], **values: Sequence[float] | Floats) -> list[dict[str, Any]]:
    """Annotations of COCO with these values; COCOeval takes the id 0 for "not matched"."""
    columns = [images.tolist(), *(np.asarray(value).tolist() for value in values.values())]
    return [
        {"id": number, "category_id": _CATEGORY, **dict(zip(("image_id", *values), row, strict=True))}
        for number, row in enumerate(zip(*columns, strict=True), start=1)
    ]


def _index(rows: list[dict[str, Any]], images: int) -> COCO:
    index = COCO()
    index.dataset = {
        "images": [{"id": image} for image in range(images)],
        "annotations": rows,
        "categories": [{"id": _CATEGORY, "name": "person"}],
    }
    index.createIndex()
    return index
