"""Whole images to learn from, with all their people: augmented, with part-affinity fields and heatmaps."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.annotation_files import person_category, read_annotations
from hpe_tasks.data.coco import CocoDataset, CocoImage
from hpe_tasks.errors import DatasetError
from hpe_tasks.inference.augmentation import place_image
from hpe_tasks.pose.codecs import image_codec
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.pose.codecs.paf import STRIDE
from hpe_tasks.pose.crops import transform_points
from hpe_tasks.pose.skeletons import COCO17
from hpe_tasks.training.images import Batch, TrainingImages, jitter

_WEIGHTS = {"heatmaps": 2.0}
"""Factor on the squared errors of an output: limbs cover more of an image than joints do."""

_MIRRORED = np.arange(len(COCO17.joints))
for _left, _right in COCO17.flip_pairs:
    _MIRRORED[[_left, _right]] = _right, _left


class TrainingScenes:
    """All images of a split with labelled people, to be augmented anew in every epoch.

    A scene depends on the seed, the epoch and the image only, and not on the batch or the thread that it is made in.

    Args:
        dataset: The split.
        config: How images are augmented, and the network.
        model: The network, where it is not the one of a training.

    Raises:
        DatasetError: The split has no people with COCO's joints.
    """

    def __init__(self, dataset: CocoDataset, config: TrainingConfig, model: ModelConfig | None = None) -> None:
        self._dataset, self._config = dataset, config
        self._model = config.model_config_for("unused") if model is None else model
        self._images = [image for image in dataset.images if dataset.persons(image.id)]
        if dataset.joint_names != COCO17.joints or not self._images:
            raise DatasetError(
                f"{dataset.annotation_file} has no person with COCO's 17 joints, in COCO's order.",
                hint="Train aimet_pose on the joints of COCO, or another network on this data set.",
            )
        self._unlabelled = _unlabelled_boxes(dataset)
        self._pixels = TrainingImages(dataset, config.cache_mb)

    def __len__(self) -> int:
        return len(self._images)

    def plan(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """The epoch's batches in random order, as indices of images: the wide ones apart from the high ones."""
        rng = np.random.default_rng((self._config.seed, epoch))
        order = rng.permutation(len(self._images))
        wide = np.array([image.width > image.height for image in self._images])[order]
        size = self._config.batch_size
        batches = [alike[i : i + size] for alike in (order[wide], order[~wide]) for i in range(0, len(alike), size)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def ids(self, indices: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """The ids of a batch's images and of their persons' annotations."""
        images = sorted(self._images[index].id for index in indices)
        return images, [person.annotation_id for image in images for person in self._dataset.persons(image)]

    def batch(self, epoch: int, indices: npt.NDArray[np.int64]) -> Batch:
        """Augment images that are all wide or all high.

        Targets are those of the codec. Where people are whose joints are not labelled, the weight is 0.

        Raises:
            DatasetError: An image is missing or cannot be decoded.
        """
        scenes = [
            self._scene(self._images[index], np.random.default_rng((self._config.seed, epoch, int(index))))
            for index in indices
        ]
        images, targets, weights = zip(*scenes, strict=True)
        return Batch(np.stack(images), _stacked(targets), _stacked(weights))

    def _scene(self, image: CocoImage, rng: np.random.Generator) -> tuple[npt.NDArray[np.float32], Arrays, Arrays]:
        """One augmented image 3×H×W, normalized, its targets and their weights, C×h×w each."""
        size = self._model.input_size_for((image.width, image.height))
        matrix, flip = place_image((image.width, image.height), size, self._config, rng)
        warped = cv2.warpAffine(
            self._pixels.read(image), matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        pixels = jitter(warped.astype(np.uint8, copy=False), self._config.colour_jitter, rng)
        mean, std = (np.array(v, dtype=np.float32) for v in (self._model.mean, self._model.std))

        people = np.stack([person.joints for person in self._dataset.persons(image.id)])
        # A joint's peak belongs half a pixel of the image beside it, to the right and below, in a mirrored image too.
        half_pixel = (np.hypot(matrix[:, 0], matrix[:, 1]) - 1) / 2
        joints, visible = transform_points(people[..., :2], matrix) + half_pixel, people[..., 2]
        if flip:
            joints, visible = joints[:, _MIRRORED], visible[:, _MIRRORED]
        targets = image_codec(self._model.codec).encode(joints, visible, size, self._config.sigma)
        labelled = self._labelled(image, matrix, (size[0] // STRIDE, size[1] // STRIDE))
        weights = {
            name: np.broadcast_to(labelled * np.float32(_WEIGHTS.get(name, 1.0)), target.shape)
            for name, target in targets.items()
        }
        return ((pixels - mean) / std).transpose(2, 0, 1), targets, weights

    def _labelled(
        self, image: CocoImage, matrix: npt.NDArray[np.float64], map_size: tuple[int, int]
    ) -> npt.NDArray[np.float32]:
        """1 in the cells h×w of the maps, but 0 in boxes of people without labelled joints."""
        labelled = np.ones((map_size[1], map_size[0]), np.float32)
        for x, y, w, h in self._unlabelled.get(image.id, ()):
            corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
            cells = transform_points(corners, matrix) / STRIDE
            low, high = np.floor(cells.min(axis=0)), np.ceil(cells.max(axis=0))
            left, top = np.clip(low, 0, map_size).astype(int)
            right, bottom = np.clip(high, 0, map_size).astype(int)
            labelled[top:bottom, left:right] = 0
        return labelled


def _stacked(parts: Sequence[Arrays]) -> Arrays:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _unlabelled_boxes(dataset: CocoDataset) -> dict[int, list[tuple[float, ...]]]:
    """Boxes (x, y, w, h) of crowds and of persons without a labelled joint, by image."""
    content = read_annotations(dataset.annotation_file)
    category = person_category(content)
    boxes: dict[int, list[tuple[float, ...]]] = {}
    for row in content["annotations"]:
        if category is not None and row.get("category_id") != category.get("id"):
            continue
        if row.get("iscrowd") or not row.get("num_keypoints", 0):
            box = row.get("bbox")
            try:
                x, y, w, h = (float(value) for value in row["bbox"])
            except (KeyError, TypeError, ValueError) as error:
                raise DatasetError(
                    f"{dataset.annotation_file}: the annotation with id {row.get('id')!r} has the bbox {box!r}.",
                    hint="Give it four numbers: x, y, width, height.",
                ) from error
            boxes.setdefault(row.get("image_id"), []).append((x, y, w, h))
    return boxes
