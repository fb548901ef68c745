"""The usual mistakes of a network that finds all people of a whole image: what it is fed with."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.calibration import choose_calibration
from hpe_tasks.data.coco import CocoDataset, CocoImage
from hpe_tasks.diagnosis.hypotheses import Mistake
from hpe_tasks.diagnosis.people import NUM_IMAGES, RAW, Fit, as_input, as_pixels, pass_over
from hpe_tasks.diagnosis.trials import Trial
from hpe_tasks.errors import CheckpointError, DatasetError
from hpe_tasks.evaluation.coco import read_truth
from hpe_tasks.inference import Predict, PreparedImage, Unreadable, decode_image, predict_maps, prepare_image
from hpe_tasks.metrics.oks import coco_breakdown
from hpe_tasks.pose.codecs import image_codec
from hpe_tasks.pose.people import People

_LONGEST_TRIAL_S = 12.0
"""Maps of a network that is fed with nonsense are full of peaks, which take long to join to people."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Whole images with labelled persons.

    Attributes:
        images: The records.
        pixels: Of each image 3×H×W uint8, BGR: what a network is shown, before it is normalized.
        truth: Annotations of persons in the images, with those that the metric ignores.
        joints: (index in COCO's order, index in the data set) of the joints that are compared.
        sigmas: OKS sigma of each.
    """

    images: tuple[CocoImage, ...]
    pixels: tuple[NDArray[np.uint8], ...]
    truth: tuple[dict[str, Any], ...]
    joints: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_images(self) -> int:
        """Images."""
        return len(self)

    @property
    def num_persons(self) -> int:
        """Labelled persons."""
        return len(self._persons())

    def first(self, count: int) -> LabelledImages:
        """The first images alone."""
        images = self.images[:count]
        ids = {image.id for image in images}
        truth = tuple(row for row in self.truth if row["image_id"] in ids)
        return replace(self, images=images, pixels=self.pixels[:count], truth=truth)

    def fit(self, people: Mapping[int, People]) -> Fit:
        """Compare the people of each image, by its id, with the truth."""
        results = [row for image_id, found in people.items() for row in self._results(image_id, found)]
        indices = [index for _, index in self.joints]
        accuracy = coco_breakdown(self.truth, results, {"all": (indices, self.sigmas)})["all"]
        return Fit(accuracy, np.array([self._closeness(row, people.get(row["image_id"])) for row in self._persons()]))

    def _persons(self) -> list[dict[str, Any]]:
        return [row for row in self.truth if row.get("num_keypoints") and not row.get("iscrowd")]

    def _results(self, image_id: int, people: People) -> list[dict[str, Any]]:
        length = len(self.truth[0]["keypoints"]) // 3
        rows = []
        for joints, found, score in zip(people.joints, people.found, people.scores, strict=True):
            triples = np.zeros((length, 3))
            for channel, index in self.joints:
                triples[index] = (*joints[channel], float(found[channel]))
            rows.append({"image_id": image_id, "keypoints": triples.ravel().tolist(), "score": float(score)})
        return rows

    def _closeness(self, row: Mapping[str, Any], people: People | None) -> float:
        """OKS of the found person who is most like an annotated one."""
        truth = np.array(row["keypoints"], dtype=np.float64).reshape(-1, 3)[[index for _, index in self.joints]]
        labelled = truth[:, 2] > 0
        if not labelled.any():
            return float("nan")
        if people is None or not len(people):
            return 0.0
        offsets = people.joints[:, [channel for channel, _ in self.joints]][:, labelled] - truth[labelled, :2]
        variances = (2 * np.array(self.sigmas)[labelled]) ** 2
        similar = np.exp(-(offsets**2).sum(axis=-1) / variances / (row["area"] + np.spacing(1)) / 2)
        return float(similar.mean(axis=1).max())


def read_images(dataset: CocoDataset, model: ModelConfig, *, seed: int) -> LabelledImages:
    """Draw images with labelled persons by seed; those that cannot be read are passed over.

    Raises:
        DatasetError: None of the images can be read.
    """
    records = {image.id: image for image in dataset.images}
    raw = model.model_copy(update=RAW)
    prepared: list[PreparedImage] = []
    for image_id in choose_calibration(dataset, num_images=NUM_IMAGES, seed=seed):
        image = prepare_image(dataset, raw, records[image_id])
        if isinstance(image, Unreadable):
            pass_over(image)
        else:
            prepared.append(image)
    if not prepared:
        raise DatasetError(
            "None of the images that were drawn for the diagnosis can be read.", hint="Fetch them again."
        )
    sigmas = dataset.sigmas
    names = list(dataset.joint_names)
    compared = [(i, names.index(joint)) for i, joint in enumerate(model.joints.joints) if joint in names]
    return LabelledImages(
        images=tuple(one.image for one in prepared),
        pixels=tuple(as_pixels(one.pixels) for one in prepared),
        truth=read_truth(dataset.subset(one.image.id for one in prepared))[1],
        joints=tuple(compared),
        sigmas=tuple(sigmas[model.joints.joints[channel]] for channel, _ in compared),
    )


def try_images(
    images: LabelledImages, mistake: Mistake, fed: ModelConfig, predict: Predict, batch_size: int
) -> list[Trial]:
    """Show the images in one way: `fed` is the model without the `mistake`."""
    people: dict[int, People] = {}
    began = time.perf_counter()
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        shown = [
            PreparedImage(image, as_input(pixels[None], fed)[0])
            for image, pixels in zip(images.images[part], images.pixels[part], strict=True)
        ]
        if time.perf_counter() - began > _LONGEST_TRIAL_S:
            # In the others no person is found: no trial that takes so long is a good one.
            break
        people |= _people(shown, predict, fed)
    return [Trial(mistake, images.fit(people))]


def _people(shown: Sequence[PreparedImage], predict: Predict, fed: ModelConfig) -> dict[int, People]:
    """The people of each image by its id; none where the maps cannot be those of a trained network."""
    found = {}
    for image in shown:
        try:
            [maps] = predict_maps([image], predict, fed)
            found[image.image.id] = decode_image(maps, image_codec(fed.codec)).people
        except CheckpointError:
            # What is fed here is wrong on purpose, all but once.
            continue
    return found
