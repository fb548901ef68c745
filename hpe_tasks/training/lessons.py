"""Labelled images that a quantized network learns from: those of a training, and others to judge it by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.data.dataset import Dataset
from hpe_tasks.errors import DatasetError
from hpe_tasks.inference.images import map_ahead
from hpe_tasks.inference.lessons import UnlabelledLessons
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.training.crops import TrainingCrops
from hpe_tasks.training.images import Batch
from hpe_tasks.training.scenes import TrainingScenes


class LabelledLessons:
    """Examples as a training makes them, with what the network should give.

    Args:
        apart: What is held out, and judged without labels.
        dataset: The training split, without images that judge a model.
        model: The network, one that the project builds: how another was taught is not known.
        seed: Another seed gives other examples.
        batch_size: Examples in a step.

    Raises:
        DatasetError: The data set is not in COCO's layout, or has none of the network's joints.
    """

    augmented = True
    labelled = True

    def __init__(
        self, apart: UnlabelledLessons, dataset: Dataset, model: ModelConfig, *, seed: int, batch_size: int
    ) -> None:
        if not isinstance(dataset, CocoDataset):
            raise DatasetError(
                f"A quantized network cannot learn from the labels of {dataset.kind.title}, only from COCO's layout.",
                hint="Set recipe.distillation_labels to false.",
            )
        config = TrainingConfig(batch_size=max(2, batch_size), seed=seed, colour_jitter=0.0)
        whole = CODECS[model.codec].whole_images
        self._examples = TrainingScenes(dataset, config, model) if whole else TrainingCrops(dataset, config, model)
        self._apart = apart
        self.num_learnt, self.num_held_out = len(self._examples), apart.num_held_out

    def held_out(self) -> Iterator[NDArray[np.float32]]:
        """Calibration images that are never learnt from, as an evaluation shows them."""
        return self._apart.held_out()

    def batches(self, first: int, steps: int) -> Iterator[Batch]:
        """Give the batches of so many steps, from step `first` on, while a thread makes those that follow."""
        plan = ((epoch, indices) for epoch in count() for indices in self._examples.plan(epoch))
        with closing(map_ahead(lambda task: self._examples.batch(*task), islice(plan, first, first + steps))) as made:
            yield from made
