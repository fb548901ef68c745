"""What every split of a data set can be asked, whatever its kind."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.data.image_files import Unreadable
from hpe_tasks.datasets import DatasetKind
from hpe_tasks.pose.skeletons import Skeleton

PersonT = TypeVar("PersonT")

Box = tuple[float, float, float, float]

ImageKey = int | str
"""What tells images apart: an id, or a file name."""

Region = tuple[NDArray[np.float64], NDArray[np.float64]]
"""What a crop shows: its centre (x, y) in image pixels, and its scale (w, h) in units of 200 pixels."""

Stratum = tuple[bool, int, int]
"""What kind of scene an image shows, for a draw that holds all kinds of them; see `stratum`."""

JOINT_CLASSES = (6, 12)
"""Labelled joints of a person at which the next class begins: few, about half, most."""

CROWD_CLASSES = (2, 4)
"""Persons in an image at which the next class begins: one, some, many. Regions marked as a crowd are not counted."""


def stratum(*, large: bool, joints: int, persons: int) -> Stratum:
    """The kind of an image whose largest person has so many labelled joints, and that shows so many persons."""
    return large, bisect(JOINT_CLASSES, joints), bisect(CROWD_CLASSES, persons)


@dataclass(frozen=True, eq=False)
class ImageCrops(Generic[PersonT]):
    """Persons who are to be cut out of one image.

    Attributes:
        regions: The crop of each person, given the (W, H) of the decoded image, or why it does not fit its records.
    """

    path: Path
    persons: tuple[PersonT, ...]
    regions: Callable[[tuple[int, int]], Sequence[Region] | Unreadable]


@dataclass(frozen=True, eq=False)
class Subject:
    """An annotated person, in one form for every kind; coordinates are pixels of the image, counted from 0.

    Attributes:
        number: Annotation id, or number in MPII's file.
        caption: Says which person in which image this is.
        joints: K×2; meaningless where not labelled.
        box: (x, y, w, h), about what the person covers.
        size: The measure that distances are told in; `Dataset.size_name` says what it is.
    """

    number: int
    image: ImageKey
    path: Path
    caption: str
    joints: NDArray[np.float64]
    labelled: NDArray[np.bool_]
    box: Box
    size: float


class Dataset(Protocol):
    """One split of a data set.

    Its persons and their crops are the kind's own; what is asked here is what steps need that work with every kind.
    """

    @property
    def kind(self) -> DatasetKind:
        """What kind of data set it is of."""

    @property
    def root(self) -> Path:
        """Folder of the data set."""

    @property
    def split(self) -> str:
        """Name of the split."""

    @property
    def annotation_file(self) -> Path:
        """The split's annotations."""

    @property
    def skeleton(self) -> Skeleton:
        """The joints in the order of its annotations, and the limbs between them."""

    @property
    def size_name(self) -> str:
        """What `Subject.size` is."""

    @property
    def num_images(self) -> int:
        """Images of the split."""

    @property
    def num_persons(self) -> int:
        """Persons of the split who can be measured."""

    @property
    def image_ids(self) -> tuple[Any, ...]:
        """What tells its images apart, sorted: ids or file names."""

    def subset(self, images: Iterable[Any], /) -> Self:
        """The same split with these images only; raises DatasetError for one that it lacks."""

    def image_files(self) -> Mapping[Any, Path]:
        """Where each image lies; a file may be missing."""

    def image_names(self) -> Mapping[str, set[Any]]:
        """All that its images are known by, by kind of name: splits that share one share an image."""

    def strata(self) -> Mapping[Any, Stratum]:
        """The images that show people, each with what kind of scene it shows."""

    def annotated_boxes(self) -> list[tuple[Path, tuple[Box, ...]]]:
        """The images with annotated people, and boxes that give their crops."""

    def subjects(self) -> tuple[Subject, ...]:
        """The annotated persons; raises DatasetError where the truth cannot be used."""

    def crops(self, input_size: tuple[int, int], /) -> Iterator[ImageCrops[Any]]:
        """Every person as a top-down evaluation cuts him out for an input of this (W, H)."""
