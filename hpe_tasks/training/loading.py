"""Batches of a training, in order, made ahead of their use by threads.

Threads, and no processes: a Celery worker's processes are daemonic and may have no children; what takes time here,
decoding and warping, runs outside of Python's lock.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.models.losses import Tensors
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.codecs.arrays import Arrays
from hpe_tasks.training.crops import TrainingCrops
from hpe_tasks.training.devices import ALONE, Rank
from hpe_tasks.training.images import Batch
from hpe_tasks.training.scenes import TrainingScenes

Examples = TrainingCrops | TrainingScenes
Indices = npt.NDArray[np.int64]

_MOST_THREADS = 8


def training_examples(dataset: CocoDataset, config: TrainingConfig) -> Examples:
    """What the network learns from: crops of persons or whole images, as its codec asks.

    Raises:
        DatasetError: The data set has none of the network's joints.
    """
    whole_images = CODECS[config.model_config_for("unused").codec].whole_images
    return TrainingScenes(dataset, config) if whole_images else TrainingCrops(dataset, config)


@dataclass(frozen=True, eq=False)
class LoadedBatch:
    """A batch as the network takes it.

    Attributes:
        images: N×3×H×W float32, in memory format `channels_last`.
        targets: By the codec's names.
        weights: By the same names.
    """

    images: torch.Tensor
    targets: Tensors
    weights: Tensors

    def __len__(self) -> int:
        return len(self.images)

    def part(self, first: int, end: int) -> LoadedBatch:
        """Examples from `first` on, up to `end`."""
        targets, weights = (
            {name: tensor[first:end] for name, tensor in tensors.items()} for tensors in (self.targets, self.weights)
        )
        return LoadedBatch(self.images[first:end], targets, weights)


def batches(
    examples: Examples, epoch: int, first: int, *, threads: int = 1, pinned: bool = False, rank: Rank = ALONE
) -> Iterator[tuple[Indices, LoadedBatch]]:
    """Give the epoch's batches in order, from number `first` on, while threads make those that follow.

    Args:
        examples: What they are made of.
        epoch: Which.
        first: How many are left out.
        threads: A batch is the same however many there are.
        pinned: Whether to lay them where a GPU can fetch them from.
        rank: Which of the training's processes this is; it makes its part of each.

    Returns:
        Indices of the whole batch, and this process's part of it.

    Raises:
        DatasetError: An image is missing or cannot be decoded.
    """

    def make(indices: Indices) -> LoadedBatch:
        return _loaded(examples.batch(epoch, part_of(indices, rank)[0]), pinned=pinned)

    plan = iter(examples.plan(epoch)[first:])
    waiting: deque[tuple[Indices, Future[LoadedBatch]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="hpe-batches") as pool:
        try:
            waiting.extend((indices, pool.submit(make, indices)) for indices in islice(plan, threads + 1))
            while waiting:
                indices, made = waiting.popleft()
                batch = made.result()
                waiting.extend((later, pool.submit(make, later)) for later in islice(plan, 1))
                yield indices, batch
        finally:
            for _, pending in waiting:
                pending.cancel()


def part_of(indices: Indices, rank: Rank) -> tuple[Indices, float]:
    """A process's part of a batch, and how much larger or smaller it is than the mean of all processes' parts.

    Of a batch with fewer examples than there are processes, the others take the first, with the share 0.
    """
    own = indices[rank.number :: rank.processes]
    return (own, len(own) * rank.processes / len(indices)) if len(own) else (indices[:1], 0.0)


def loading_threads(config: TrainingConfig, device: torch.device) -> int:
    """How many threads make batches."""
    if config.loading_threads is not None:
        return config.loading_threads
    # A CPU that trains has its cores busy already.
    return min(_MOST_THREADS, os.cpu_count() or 1) if device.type == "cuda" else 1


def _loaded(batch: Batch, *, pinned: bool) -> LoadedBatch:
    images = torch.from_numpy(batch.images).to(memory_format=torch.channels_last)
    targets, weights = _tensors(batch.targets), _tensors(batch.weights)
    if not pinned:
        return LoadedBatch(images, targets, weights)
    return LoadedBatch(images.pin_memory(), _pinned(targets), _pinned(weights))


def _tensors(arrays: Arrays) -> Tensors:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _pinned(tensors: Tensors) -> Tensors:
    return {name: tensor.pin_memory() for name, tensor in tensors.items()}
