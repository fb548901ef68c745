"""Which images calibrate the quantized model: drawn by seed from all kinds of scenes, and never one that judges it."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from hpe_tasks.data.dataset import Dataset, Stratum
from hpe_tasks.data.image_files import Unreadable, read_image
from hpe_tasks.errors import DatasetError
from hpe_tasks.storage.files import sha256_file

log = logging.getLogger(__name__)

_SHOWN = 5

DatasetT = TypeVar("DatasetT", bound=Dataset)
Name = TypeVar("Name", int, str)


def choose_calibration(dataset: Dataset, *, num_images: int, seed: int) -> tuple[Any, ...]:
    """Choose images that show people, from their records alone.

    The images are put in one order, and the first of it are chosen: a larger choice holds the smaller ones. Images
    are of one stratum when their largest persons are of one size class with about as many labelled joints, and when
    they show about as many people. The order begins with one image of each of the at most 18 strata; from then on
    every stratum has its share of it.

    Args:
        dataset: The split to choose from.
        num_images: How many; all that show people when there are fewer.
        seed: Another seed chooses other images; the same seed the same ones on every machine.

    Returns:
        Image ids of COCO, file names of MPII, in that order.
    """
    return _ordered(dataset.strata(), seed)[:num_images]


@dataclass(frozen=True)
class CalibrationDraw(Generic[DatasetT]):
    """The images that were drawn, and those that were not although it was their turn: `file name (reason)`."""

    images: DatasetT
    left_out: tuple[str, ...]


def draw_calibration(dataset: DatasetT, evaluation: DatasetT, *, num_images: int, seed: int) -> DatasetT:
    """The images of `calibration_draw`, where nothing is known of lookalikes."""
    return calibration_draw(dataset, evaluation, num_images=num_images, seed=seed).images


def calibration_draw(
    dataset: DatasetT,
    evaluation: DatasetT,
    *,
    num_images: int,
    seed: int,
    lookalikes: Mapping[Any, str] | None = None,
) -> CalibrationDraw[DatasetT]:
    """Draw images as `choose_calibration` does, none of which judges the model.

    An image with the same bytes as one of the evaluation split is left out with a warning, and so is one that looks
    like one of them or cannot be read; the next takes its place.

    Args:
        dataset: The split to draw from.
        evaluation: The split that metrics are measured on.
        num_images: How many; all there are, with a warning, when the split has fewer.
        seed: Another seed draws other images.
        lookalikes: The images of the split that look like an image of the evaluation split, with the name of its file,
            as a validation finds them.

    Raises:
        DatasetError: The splits share an image id or a file name, or no image that shows a person is left.
    """
    _refuse_shared(dataset, evaluation)
    paths, judged = dataset.image_files(), defaultdict[int, list[Path]](list)
    for path in evaluation.image_files().values():
        if path.is_file():
            judged[path.stat().st_size].append(path)
    drawn: list[Any] = []
    left_out: list[str] = []
    for name in choose_calibration(dataset, num_images=len(paths), seed=seed):
        if len(drawn) == num_images:
            break
        path = paths[name]
        pixels = read_image(path)
        if isinstance(pixels, Unreadable):
            left_out.append(f"{path.name} ({pixels.reason})")
        elif twin := _twin(path, judged[path.stat().st_size]):
            left_out.append(f"{path.name} (the same image as {twin.name} of the evaluation split)")
        elif like := (lookalikes or {}).get(name):
            left_out.append(f"{path.name} (looks like {like} of the evaluation split)")
        else:
            drawn.append(name)
    if left_out:
        log.warning("Not calibrated on %d images of %r: %s.", len(left_out), dataset.split, _listed(left_out))
    if not drawn:
        raise _nothing_left(dataset, left_out)
    if len(drawn) < num_images:
        log.warning(
            "The calibration split %r has only %d images with persons, not %d: all are used.",
            dataset.split,
            len(drawn),
            num_images,
        )
    return CalibrationDraw(dataset.subset(drawn), tuple(left_out))


def _nothing_left(dataset: Dataset, left_out: list[str]) -> DatasetError:
    if not left_out:
        return DatasetError(
            f"The calibration split {dataset.split!r} has no image with a person that has labelled joints.",
            hint="Set dataset.calibration_split to a split that shows people.",
        )
    return DatasetError(
        f"No image of the calibration split {dataset.split!r} is left to calibrate on. Left out were {len(left_out)}: "
        f"{_listed(left_out)}.",
        hint="Give it images that are not those of the evaluation split. Where all images look alike, as those of a "
        "camera that does not move, dataset.calibrate_on_lookalikes=true takes them all the same.",
    )


def _twin(path: Path, others: Iterable[Path]) -> Path | None:
    """The first other file with the same bytes."""
    return next((other for other in others if sha256_file(other) == sha256_file(path)), None)


def _ordered(strata: Mapping[Name, Stratum], seed: int) -> tuple[Name, ...]:
    """Order names so that every stratum is spread evenly, after one name of each.

    Inside a stratum of m names a hash of seed and name decides; its k-th name then stands at (k + 1/2) / m of the
    whole order. This is systematic sampling: a prefix holds of each stratum what its share gives, to within one.
    """

    def rank(name: Name) -> bytes:
        return hashlib.sha256(f"{seed} {name}".encode()).digest()

    members: dict[Stratum, list[Name]] = defaultdict(list)
    for name, stratum in strata.items():
        members[stratum].append(name)
    placed = [
        (k > 0, (k + 0.5) / len(names), rank(name), name)
        for names in members.values()
        for k, name in enumerate(sorted(names, key=rank))
    ]
    return tuple(name for *_, name in sorted(placed))


def _refuse_shared(dataset: Dataset, evaluation: Dataset) -> None:
    judged = evaluation.image_names()
    for what, names in dataset.image_names().items():
        if shared := names & judged[what]:
            raise DatasetError(
                f"The calibration split {dataset.split!r} and the evaluation split {evaluation.split!r} share "
                f"{len(shared)} {what}: {_listed(sorted(map(str, shared)))}.",
                hint="Use splits that share no image; other images need names and ids of their own.",
            )


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
