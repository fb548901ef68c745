"""Crops of persons to learn from: augmented, with the outputs that the codec asks of a network."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.errors import DatasetError
from hpe_tasks.inference.augmentation import place_crop
from hpe_tasks.pose.codecs import crop_codec
from hpe_tasks.pose.crops import box_to_center_scale, transform_points
from hpe_tasks.training.images import Batch, TrainingImages, jitter


class TrainingCrops:
    """All persons of a split, to be cut out and augmented anew in every epoch.

    A crop depends on the seed, the epoch and the person only, and not on the batch or the thread that it is made in.

    Args:
        dataset: The split.
        config: How persons are augmented, and the network.
        model: The network, where it is not the one of a training.

    Raises:
        DatasetError: The split has none of the network's joints.
    """

    def __init__(self, dataset: CocoDataset, config: TrainingConfig, model: ModelConfig | None = None) -> None:
        self._config = config
        model = config.model_config_for("unused") if model is None else model
        self._model = model
        self._persons = dataset.all_persons()
        self._images = {image.id: image for image in dataset.images}
        index = {name: i for i, name in enumerate(dataset.joint_names)}
        self._source = [index.get(joint, -1) for joint in model.joints.joints]
        if all(i < 0 for i in self._source) or not self._persons:
            raise DatasetError(
                f"{dataset.annotation_file} has no person with joints of the skeleton {model.joints.name!r}.",
                hint="Choose the skeleton that the data set is annotated with.",
            )
        swap = np.arange(len(model.joints.joints))
        for left, right in model.joints.flip_pairs:
            swap[[left, right]] = right, left
        self._swap = swap
        self._pixels = TrainingImages(dataset, config.cache_mb)

    def __len__(self) -> int:
        return len(self._persons)

    def plan(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """The epoch's batches, as indices of persons in random order.

        A last batch of one is left out where it is not the only one: batch norms cannot learn from it.
        """
        order = np.random.default_rng((self._config.seed, epoch)).permutation(len(self._persons))
        batches = [order[i : i + self._config.batch_size] for i in range(0, len(order), self._config.batch_size)]
        return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches

    def ids(self, indices: npt.NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """The ids of a batch's images and of its persons' annotations."""
        persons = [self._persons[index] for index in indices]
        return sorted({person.image_id for person in persons}), [person.annotation_id for person in persons]

    def batch(self, epoch: int, indices: npt.NDArray[np.int64]) -> Batch:
        """Cut out and augment persons; a joint that is not labelled or not in its crop has the weight 0.

        Raises:
            DatasetError: An image is missing or cannot be decoded.
        """
        crops, points, visible = [], [], []
        for index in indices:
            rng = np.random.default_rng((self._config.seed, epoch, int(index)))
            crop, joints, seen = self._crop(int(index), rng)
            crops.append(crop)
            points.append(joints)
            visible.append(seen)
        codec = crop_codec(self._model.codec)
        targets, weights = codec.encode(np.stack(points), np.stack(visible), self._model.input_size, self._config.sigma)
        mean, std = (np.array(v, dtype=np.float32) for v in (self._model.mean, self._model.std))
        pixels = np.stack(crops) if self._model.channel_order == "rgb" else np.stack(crops)[..., ::-1]
        normalized = (pixels - mean) / std
        return Batch(np.ascontiguousarray(normalized.transpose(0, 3, 1, 2)), targets, weights)

    def _crop(
        self, index: int, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """One augmented crop H×W×3 in [0, 1], its joints J×2 in input pixels, and which of them are labelled."""
        config, (width, height) = self._config, self._model.input_size
        person = self._persons[index]
        image = self._images[person.image_id]
        center, scale = box_to_center_scale(person.box, (image.width, image.height), (width, height))
        matrix, flip = place_crop((center, scale), (width, height), config, rng)
        pixels = cv2.warpAffine(self._pixels.read(image), matrix, (width, height), flags=cv2.INTER_LINEAR)
        crop = jitter(pixels.astype(np.uint8, copy=False), config.colour_jitter, rng)

        source = np.array(self._source)
        joints = transform_points(person.joints[source, :2], matrix)
        labelled = (person.joints[source, 2] > 0) & (source >= 0)
        if flip:
            joints, labelled = joints[self._swap], labelled[self._swap]
        return crop, joints, labelled
