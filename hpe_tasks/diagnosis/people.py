"""Labelled persons of some images, prepared once, and how well joints fit them in the metric that is judged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.calibration import choose_calibration
from hpe_tasks.data.coco import CocoDataset, Person
from hpe_tasks.data.dataset import Dataset
from hpe_tasks.data.mpii import MpiiDataset, MpiiPerson, load_truth, to_file_pixels
from hpe_tasks.errors import DatasetError
from hpe_tasks.evaluation.coco import read_truth
from hpe_tasks.inference import CropBatch, Unreadable, mpii_batches, person_batches
from hpe_tasks.metrics.oks import coco_breakdown
from hpe_tasks.metrics.pckh import HEAD_FACTOR, THRESHOLD, pckh_stats
from hpe_tasks.pose.codecs.pixels import input_levels
from hpe_tasks.pose.crops import person_score
from hpe_tasks.pose.skeletons import MPII16

Floats = NDArray[np.float64]

NUM_IMAGES = 32
"""Images that are drawn."""

_PERSONS_IN_IMAGE = 2
"""The largest: the same scene tells little more by its others."""

log = logging.getLogger(__name__)

RAW: dict[str, Any] = {"channel_order": "bgr", "mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
"""What makes an input of the pixel values as they are, 0 to 255 in blue, green, red."""


def as_pixels(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The pixels of images that were prepared as `RAW`."""
    # Whole numbers, but for the rounding of a division and a multiplication by 255.
    pixels: NDArray[np.uint8] = np.rint(images).astype(np.uint8)
    return pixels


def as_input(pixels: NDArray[np.uint8], model: ModelConfig) -> NDArray[np.float32]:
    """What an evaluation shows to a network of pixels N×3×H×W in blue, green, red."""
    planes = pixels if model.channel_order == "bgr" else pixels[:, ::-1]
    levels = input_levels(model.mean, model.std)
    return np.stack([level[planes[:, channel]] for channel, level in enumerate(levels)], axis=1)


@dataclass(frozen=True, eq=False)
class Fit:
    """How well the joints of N persons fit.

    Attributes:
        accuracy: The figure that is judged: AP in [0, 1], or mean PCKh in percent; None without anything to compare.
        closeness: N, in [0, 1]: the mean over a person's labelled joints, of COCO the OKS; NaN for a person without.
    """

    accuracy: float | None
    closeness: Floats


@dataclass(frozen=True, eq=False)
class LabelledPersons:
    """N persons cut out of their images, and their J joints that the metric knows.

    Attributes:
        crops: N×3×H×W uint8, BGR: what a network is shown, before it is normalized.
        centers: N×2 and `scales`: N×2, of the crops, as a codec takes them.
        files: N names: of the image that each was cut out of.
        joints: Names of the J joints.
        truth: N×J×2, in image pixels counted from 0.
        labelled: N×J.
        tolerances: N×J pixels: joints that are this far off are about 0.6 close.
        accuracy: Gives the figure of the first n persons from their joints n×J×2 and scores n×J, over the joints of
            these indices.
    """

    crops: NDArray[np.uint8]
    centers: Floats
    scales: Floats
    files: tuple[str, ...]
    joints: tuple[str, ...]
    truth: Floats
    labelled: NDArray[np.bool_]
    tolerances: Floats
    accuracy: Callable[[Floats, NDArray[np.float32], Sequence[int]], float | None]

    def __len__(self) -> int:
        return len(self.crops)

    @property
    def num_images(self) -> int:
        """Images that the persons are in."""
        return len(set(self.files))

    @property
    def num_persons(self) -> int:
        """N."""
        return len(self)

    def first(self, count: int) -> LabelledPersons:
        """The first persons alone."""
        kept = slice(count)
        return replace(
            self,
            crops=self.crops[kept],
            centers=self.centers[kept],
            scales=self.scales[kept],
            files=self.files[kept],
            truth=self.truth[kept],
            labelled=self.labelled[kept],
            tolerances=self.tolerances[kept],
        )

    def closeness(self, points: Floats) -> Floats:
        """How close C points of each person, N×C×2, are to each joint: N×C×J in [0, 1]; NaN where not labelled."""
        offsets = points[:, :, None] - self.truth[:, None]
        close = np.exp(-(offsets**2).sum(axis=-1) / (2 * self.tolerances[:, None] ** 2))
        return np.where(self.labelled[:, None], close, np.nan)

    def fit(self, points: Floats, scores: NDArray[np.float32], channels: Mapping[str, int]) -> Fit:
        """Compare joints with the truth.

        Args:
            points: N×C×2, what each channel of a network shows.
            scores: N×C.
            channels: Of each joint that is compared, the channel.
        """
        compared = [index for index, joint in enumerate(self.joints) if joint in channels]
        taken = [channels[self.joints[index]] for index in compared]
        found, found_scores = np.zeros_like(self.truth), np.zeros(self.labelled.shape, np.float32)
        found[:, compared], found_scores[:, compared] = points[:, taken], scores[:, taken]
        close = np.exp(-((found - self.truth) ** 2).sum(axis=-1) / (2 * self.tolerances**2))
        counted = self.labelled & np.isin(np.arange(len(self.joints)), compared)
        count = counted.sum(axis=1)
        mean = np.where(count > 0, np.where(counted, close, 0).sum(axis=1) / np.maximum(count, 1), np.nan)
        return Fit(self.accuracy(found, found_scores, compared), mean)


def cut_persons(dataset: Dataset, model: ModelConfig, *, seed: int) -> LabelledPersons:
    """Draw images by seed and cut out their largest labelled persons; images that cannot be read are passed over.

    Raises:
        DatasetError: The truth of an MPII split cannot be used.
    """
    return _FORMATS[dataset.kind.format](dataset, model, seed)


def _coco_persons(dataset: CocoDataset, model: ModelConfig, seed: int) -> LabelledPersons:
    sigmas = dataset.sigmas
    joints = tuple(joint for joint in dataset.joint_names if joint in sigmas)
    numbers = [dataset.joint_names.index(joint) for joint in joints]
    images = choose_calibration(dataset, num_images=NUM_IMAGES, seed=seed)
    chosen = [person for image in images for person in _largest(dataset.persons(image), lambda person: person.area)]
    raw = model.model_copy(update=RAW)
    cut = _cut(person_batches(dataset, raw, NUM_IMAGES, chosen, pass_over))
    annotations = {row["id"]: row for row in read_truth(dataset.subset(images))[1]}
    truth = [annotations[person.annotation_id] for person in cut.persons]

    def accuracy(points: Floats, scores: NDArray[np.float32], compared: Sequence[int]) -> float | None:
        results = [
            _result(row, numbers, len(dataset.joint_names), found, found_scores[compared])
            for row, found, found_scores in zip(truth, points, scores, strict=False)
        ]
        parts = {"all": ([numbers[i] for i in compared], [sigmas[joints[i]] for i in compared])}
        return coco_breakdown(truth[: len(points)], results, parts)["all"]

    shown = np.stack([person.joints[numbers] for person in cut.persons])
    areas = np.array([person.area for person in cut.persons])
    return LabelledPersons(
        crops=cut.crops,
        centers=cut.centers,
        scales=cut.scales,
        files=cut.files,
        joints=joints,
        truth=shown[..., :2].astype(np.float64),
        labelled=shown[..., 2] > 0,
        # OKS is the mean of exp(-d² / (2·area·(2·sigma)²)).
        tolerances=np.sqrt(areas + np.spacing(1))[:, None] * 2 * np.array([sigmas[joint] for joint in joints]),
        accuracy=accuracy,
    )


def _result(
    row: Mapping[str, Any], numbers: Sequence[int], length: int, points: Floats, scores: NDArray[np.float32]
) -> dict[str, Any]:
    triples = np.zeros((length, 3))
    triples[numbers, :2] = points
    return {"image_id": row["image_id"], "keypoints": triples.ravel().tolist(), "score": person_score(scores)}


def _mpii_persons(dataset: MpiiDataset, model: ModelConfig, seed: int) -> LabelledPersons:
    by_image: dict[str, list[MpiiPerson]] = {}
    for person in dataset.persons:
        if person.visible.any():
            by_image.setdefault(person.image, []).append(person)
    images = choose_calibration(dataset, num_images=NUM_IMAGES, seed=seed)
    chosen = [person for image in images for person in _largest(by_image[image], lambda person: person.scale)]
    raw = model.model_copy(update=RAW)
    cut = _cut(mpii_batches(replace(dataset, persons=tuple(chosen)), raw, NUM_IMAGES, pass_over))
    truth = load_truth(replace(dataset, persons=cut.persons))

    def accuracy(points: Floats, _: NDArray[np.float32], compared: Sequence[int]) -> float | None:
        kept = slice(len(points))
        counted = np.isin(np.arange(len(MPII16.joints)), compared)
        found = to_file_pixels(points)
        return pckh_stats(found, truth.joints[kept], truth.visible[kept] & counted, truth.head_boxes[kept]).mean

    heads = HEAD_FACTOR * np.linalg.norm(truth.head_boxes[:, 1] - truth.head_boxes[:, 0], axis=1)
    return LabelledPersons(
        crops=cut.crops,
        centers=cut.centers,
        scales=cut.scales,
        files=cut.files,
        joints=MPII16.joints,
        truth=truth.joints - (to_file_pixels(np.zeros(2))),
        labelled=truth.visible,
        tolerances=np.repeat(THRESHOLD * heads[:, None], len(MPII16.joints), axis=1),
        accuracy=accuracy,
    )


_FORMATS: dict[str, Callable[[Any, ModelConfig, int], LabelledPersons]] = {
    "coco": _coco_persons,
    "mpii": _mpii_persons,
}

PersonT = TypeVar("PersonT", Person, MpiiPerson)


@dataclass(frozen=True, eq=False)
class _Cut(Generic[PersonT]):
    """Persons in the pixels of their crops."""

    persons: tuple[PersonT, ...]
    crops: NDArray[np.uint8]
    centers: Floats
    scales: Floats
    files: tuple[str, ...]


def _cut(batches: Iterable[CropBatch[PersonT]]) -> _Cut[PersonT]:
    parts = list(batches)
    if not parts:
        raise DatasetError(
            "None of the images that were drawn for the diagnosis can be read.", hint="Fetch them again."
        )
    return _Cut(
        persons=tuple(person for part in parts for person in part.persons),
        crops=as_pixels(np.concatenate([part.images for part in parts])),
        centers=np.concatenate([part.centers for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        files=tuple(file for part in parts for file in part.files),
    )


def _largest(persons: Sequence[PersonT], size: Callable[[PersonT], float]) -> list[PersonT]:
    return sorted(persons, key=size, reverse=True)[:_PERSONS_IN_IMAGE]


def pass_over(image: Unreadable) -> None:
    """Go on without an image."""
    log.warning("The diagnosis goes without the image %s, which %s.", image.path, image.reason)
