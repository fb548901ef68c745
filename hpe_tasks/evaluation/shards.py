"""Parts of a measurement that several workers make: what the network found in some of its batches.

A network's last bits may depend on the batch that an image is in, so a part is made of whole batches, as they are when
one worker makes all of them. Nothing is counted in a part: duplicates, failed images and figures are matters of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.errors import StorageError
from hpe_tasks.evaluation.request import FailedImages, PredictionRequest
from hpe_tasks.inference import (
    ImageCrops,
    PeopleInImage,
    PosedPersons,
    Unreadable,
    crop_batches,
    find_people,
    find_poses,
)
from hpe_tasks.pose.crops import Poses
from hpe_tasks.pose.people import People
from hpe_tasks.progress import track
from hpe_tasks.records.shards import PredictedShard
from hpe_tasks.storage.columns import read_columns, write_columns

PersonT = TypeVar("PersonT")

Crops = Callable[[], Iterable[ImageCrops[PersonT]]]
"""Gives whom to cut out of each image, each time anew."""


_Rows = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Shard:
    """One of several parts.

    Attributes:
        number: Which, from 0.
        count: How many there are.
    """

    number: int
    count: int

    def batches(self, inputs: int, batch_size: int) -> range:
        """The numbers of its batches: parts differ by one at most, and are empty where there are fewer batches."""
        batches = -(-inputs // batch_size)
        return range(batches * self.number // self.count, batches * (self.number + 1) // self.count)

    def inputs(self, inputs: int, batch_size: int) -> int:
        """How many of all inputs it looks at."""
        batches = self.batches(inputs, batch_size)
        return min(inputs, batches.stop * batch_size) - min(inputs, batches.start * batch_size)


@dataclass(frozen=True)
class StoredShard:
    """A part that was made: its record, and its file on this machine."""

    record: PredictedShard
    file: Path


@dataclass(frozen=True)
class WrittenShard:
    """A part as it was made: how many inputs it is about, and which images failed."""

    inputs: int
    failed: FailedImages


def write_persons(
    crops: Crops[Any], request: PredictionRequest, shard: Shard, failed: FailedImages, file: Path
) -> WrittenShard:
    """Look for the joints of a part of all persons, and keep what was found.

    Args:
        crops: Everybody.
        request: How to look.
        shard: Which part.
        failed: Takes the images that cannot be read.
        file: Where to.

    Raises:
        DatasetError: More images of this part fail than may of all.
        CheckpointError: The network's output does not fit the configuration.
    """
    size = request.evaluation.batch_size
    total = sum(len(image.persons) for image in crops())
    batches = crop_batches(crops(), request.model, size, failed.add, shard.batches(total, size))
    posed = find_poses(batches, request.predict, request.model, flip_test=request.evaluation.flip_test)
    inputs = shard.inputs(total, size)
    shown = track(posed, request.title, total=inputs, unit="persons", count=lambda batch: len(batch.persons))
    write_columns(file, (_of_persons(batch) for batch in shown))
    return WrittenShard(inputs, failed)


def write_people(
    dataset: CocoDataset, request: PredictionRequest, shard: Shard, failed: FailedImages, file: Path
) -> WrittenShard:
    """Look for all people in a part of the images, as `write_persons` does."""
    size, total = request.evaluation.batch_size, len(dataset.images)
    batches = shard.batches(total, size)
    found = find_people(dataset, request.predict, request.model, size, failed.add, batches)
    inputs = shard.inputs(total, size)
    write_columns(file, map(_of_people, track(found, request.title, total=inputs, unit="images")))
    return WrittenShard(inputs, failed)


def _of_persons(batch: PosedPersons[Any]) -> _Rows:
    return {
        "position": batch.positions,
        "joints": batch.poses.joints,
        "scores": batch.poses.scores,
        "scales": batch.scales,
        "in_crops": batch.in_crops,
        "cells": batch.cells,
    }


def _of_people(found: PeopleInImage) -> _Rows:
    people = found.people
    return {
        "image": np.full(len(people), found.image.id, dtype=np.int64),
        "joints": people.joints,
        "found": people.found,
        "scores": people.scores,
    }


def read_persons(
    crops: Crops[PersonT], batch_size: int, shards: Sequence[StoredShard], failed: FailedImages
) -> Iterator[PosedPersons[PersonT]]:
    """Give what all parts have found, in the order and the batches in which one worker finds it.

    Args:
        crops: Everybody.
        batch_size: Persons in a batch.
        shards: All parts, in their order.
        failed: Takes the images that could not be read.

    Raises:
        DatasetError: Too many images fail.
        StorageError: A part cannot be read, or they do not make up the whole.
    """
    total = sum(len(image.persons) for image in crops())
    _check_whole(shards, total)
    _tell_failed(shards, failed)
    everybody = ((person, image.path.name) for image in crops() for person in image.persons)
    passed = 0
    for rows in _runs(shards, lambda rows: rows["position"] // batch_size):
        found = []
        for position in rows["position"].tolist():
            if not passed <= position < total:
                raise _not_its_parts(shards, total)
            found.append(next(islice(everybody, position - passed, None)))
            passed = position + 1
        yield PosedPersons(
            tuple(person for person, _ in found),
            Poses(rows["joints"], rows["scores"]),
            rows["scales"],
            tuple(file for _, file in found),
            rows["in_crops"],
            rows["cells"],
            rows["position"],
        )


def read_people(dataset: CocoDataset, shards: Sequence[StoredShard], failed: FailedImages) -> Iterator[PeopleInImage]:
    """Give what all parts have found, as `read_persons` does; without the images in which nobody was found."""
    _check_whole(shards, len(dataset.images))
    _tell_failed(shards, failed)
    images = {image.id: image for image in dataset.images}
    for rows in _runs(shards, lambda rows: rows["image"]):
        yield PeopleInImage(images[int(rows["image"][0])], People(rows["joints"], rows["found"], rows["scores"]))


def _runs(shards: Sequence[StoredShard], of: Callable[[_Rows], NDArray[Any]]) -> Iterator[_Rows]:
    """The rows of all parts, those together that follow each other with one value; files hold these whole."""
    for shard in shards:
        for rows in read_columns(shard.file):
            changes = (np.flatnonzero(np.diff(of(rows))) + 1).tolist()
            for begin, end in pairwise([0, *changes, len(of(rows))]):
                yield {name: column[begin:end] for name, column in rows.items()}


def _check_whole(shards: Sequence[StoredShard], inputs: int) -> None:
    numbers = [(shard.record.number, shard.record.count) for shard in shards]
    looked_at = sum(shard.record.inputs for shard in shards)
    if numbers != [(number, len(shards)) for number in range(len(shards))] or looked_at != inputs:
        raise _not_its_parts(shards, inputs)


def _not_its_parts(shards: Sequence[StoredShard], inputs: int) -> StorageError:
    looked_at = sum(shard.record.inputs for shard in shards)
    return StorageError(
        f"{len(shards)} parts of a measurement looked at {looked_at} of {inputs} inputs: they are not its parts.",
        hint="Run the step again with another evaluation.shards, and report this as a fault.",
    )


def _tell_failed(shards: Sequence[StoredShard], failed: FailedImages) -> None:
    """Count the failed images of all parts; persons of one image may be in two of them."""
    for name, reason in {one.name: one.reason for shard in shards for one in shard.record.failed_images}.items():
        failed.add(Unreadable(failed.root / name, reason))
