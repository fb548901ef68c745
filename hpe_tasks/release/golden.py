"""Golden images: a few images of the evaluation split, and what the exported file found on them.

They go into the manifest, so that whatever serves the version can prove that it serves it as it was measured. People
are found by the evaluation's own code. In crops each stands in a box that is clipped to its image: COCO's
annotated box, or, because MPII annotates a centre and a scale, the square of that centre and scale; where such a square
exceeds its image, its crop is a little smaller than the one that PCKh was measured on.
"""

from __future__ import annotations

import io
import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from hpe_tasks import inference
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.data.coco import in_whole_images
from hpe_tasks.data.dataset import Box, Dataset
from hpe_tasks.errors import DatasetError
from hpe_tasks.inference import ImageCrops, Predict, Region, Unreadable
from hpe_tasks.metrics.oks import coco_sigmas, oks
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.pose.crops import JOINT_SCORE_THRESHOLD, box_to_center_scale
from hpe_tasks.registry.manifest import GoldenImage, GoldenPerson
from hpe_tasks.serving.errors import RequestError
from hpe_tasks.serving.images import decode_image

GOLDEN_IMAGES = 3
CLEAR_JOINTS = 5
CANDIDATES = 12
"""Images that are looked at."""
MAX_IMAGE_BYTES = 4_000_000
"""Larger files do not fit into a request: Lambda takes 6 MB, and base64 adds a third."""
MAX_PIXELS = 25_000_000
"""What the function takes with the memory that the smoke test gives it."""
MAX_BOXES = 16
"""People of an image who are asked for: its address holds their boxes."""

_MIN_AREA = 32.0**2
"""In square pixels: COCO annotates no joints of smaller persons."""

_NOWHERE = (-1e9, -1e9)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenImage:
    """A golden image, and its file in the data set."""

    golden: GoldenImage
    file: Path


@dataclass(frozen=True)
class _Candidate:
    path: Path
    size: tuple[int, int]
    boxes: tuple[Box, ...]


def is_clear(person: GoldenPerson) -> bool:
    """Whether enough joints show where the person is: five, or all where the skeleton has fewer."""
    confident = sum(joint is not None and joint[2] > JOINT_SCORE_THRESHOLD for joint in person.joints)
    return confident >= min(CLEAR_JOINTS, len(person.joints))


def similarity(expected: GoldenPerson, found: GoldenPerson, joints: Sequence[str]) -> float:
    """OKS of a found person with an expected one, over the joints that are confident in the expected one, in [0, 1].

    The area is that of the person's box; without one that of these joints' extent, but no less than COCO's smallest
    persons with joints have. A joint that COCO does not know counts as a shoulder.

    Args:
        expected: With a confident joint, as `is_clear` asks.
        found: The other person; a joint that was not found is nowhere near.
        joints: Names of the joints.
    """
    sigmas = coco_sigmas()
    pairs = [
        (one, other, sigmas.get(name, sigmas["left_shoulder"]))
        for name, one, other in zip(joints, expected.joints, found.joints, strict=True)
        if one is not None and one[2] > JOINT_SCORE_THRESHOLD
    ]
    points = np.array([one[:2] for one, _, _ in pairs])
    others = np.array([_NOWHERE if other is None else other[:2] for _, other, _ in pairs])
    area = float(np.prod(np.ptp(points, axis=0) if expected.box is None else expected.box[2:]))
    return float(oks(points, others[None], max(area, _MIN_AREA), [sigma for _, _, sigma in pairs])[0])


def choose_golden(
    dataset: Dataset,
    predict: Predict,
    model: ModelConfig,
    evaluation: EvaluationConfig,
    *,
    seed: int,
) -> tuple[ChosenImage, ...]:
    """Choose golden images: small files, by preference some with people whom the file finds.

    Args:
        dataset: The evaluation split.
        predict: The exported file.
        model: Its input, and how people are read from its output.
        evaluation: Batch size and flip test of the evaluation.
        seed: Of the images that are looked at.

    Returns:
        At most three images, with the roles `golden-1` and so on; none where no image of the split fits a request.
    """
    candidates = _draw(dataset, seed)
    found = _find(dataset, candidates, predict, model, evaluation)
    ranked = sorted(
        (pair for pair in zip(candidates, found, strict=True) if pair[1] is not None),
        key=lambda pair: (not any(map(is_clear, pair[1] or ())), pair[0].path.stat().st_size, pair[0].path.name),
    )
    if not ranked:
        log.warning("The version gets no golden images: no image of the split %s can be one.", dataset.split)
    return tuple(
        ChosenImage(
            GoldenImage(file=f"golden-{number}", width=one.size[0], height=one.size[1], people=tuple(people or ())),
            one.path,
        )
        for number, (one, people) in enumerate(ranked[:GOLDEN_IMAGES], start=1)
    )


def _draw(dataset: Dataset, seed: int) -> list[_Candidate]:
    """Images with annotated people, at random, whose files every reader shows alike."""
    images = dataset.annotated_boxes()
    random.Random(seed).shuffle(images)
    drawn: list[_Candidate] = []
    for path, boxes in images:
        size = _plain_size(path)
        if size is not None:
            drawn.append(_Candidate(path, size, boxes[:MAX_BOXES]))
        if len(drawn) == CANDIDATES:
            break
    return drawn


def _plain_size(path: Path) -> tuple[int, int] | None:
    """(W, H) of an image that the function takes and shows as the evaluation does; None for any other.

    That is one that is small enough, upright as it is stored, and 8-bit RGB or grey without transparency.
    """
    try:
        data = path.read_bytes()
        if len(data) > MAX_IMAGE_BYTES:
            return None
        decode_image(data, MAX_PIXELS)
        with Image.open(io.BytesIO(data)) as image:
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            plain = image.mode in ("RGB", "L") and not image.has_transparency_data
            return image.size if upright and plain else None
    # One that cannot be read has been counted as failed by the evaluation.
    except (OSError, RequestError):
        return None


def _find(
    dataset: Dataset,
    candidates: Sequence[_Candidate],
    predict: Predict,
    model: ModelConfig,
    evaluation: EvaluationConfig,
) -> list[list[GoldenPerson] | None]:
    """What the file finds in each candidate; None for one that cannot be measured."""
    people: dict[Path, list[GoldenPerson]] = {}
    unusable: set[Path] = set()

    def skip(image: Unreadable) -> None:
        unusable.add(image.path)

    if CODECS[model.codec].whole_images:
        split, paths = in_whole_images(dataset), {one.path for one in candidates}
        images = split.subset(image for image, path in split.image_files().items() if path in paths)
        for found in inference.find_people(images, predict, model, evaluation.batch_size, skip):
            in_image = people.setdefault(split.image_path(found.image), [])
            for joints, there in zip(found.people.joints, found.people.found, strict=True):
                if there.any():
                    in_image.append(_person(None, joints.tolist(), there.astype(float).tolist()))
    else:
        crops = (_crops(one, model.input_size) for one in candidates)
        batches = inference.crop_batches(crops, model, evaluation.batch_size, skip)
        for posed in inference.find_poses(batches, predict, model, flip_test=evaluation.flip_test):
            for (path, box), joints, scores in zip(posed.persons, posed.poses.joints, posed.poses.scores, strict=True):
                people.setdefault(path, []).append(_person(box, joints.tolist(), scores.tolist()))
    return [None if one.path in unusable else people.get(one.path, []) for one in candidates]


def _crops(candidate: _Candidate, input_size: tuple[int, int]) -> ImageCrops[tuple[Path, Box]]:
    def regions(size: tuple[int, int]) -> list[Region] | Unreadable:
        try:
            return [box_to_center_scale(box, size, input_size) for box in candidate.boxes]
        except DatasetError as error:
            return Unreadable(candidate.path, error.message)

    return ImageCrops(candidate.path, tuple((candidate.path, box) for box in candidate.boxes), regions)


def _person(box: Box | None, points: Sequence[Sequence[float]], scores: Sequence[float]) -> GoldenPerson:
    """With the digits that a comparison needs; a score that is not above 0 shows no joint."""
    joints = (
        (round(x, 2), round(y, 2), round(score, 3)) if score > 0 else None
        for (x, y), score in zip(points, scores, strict=True)
    )
    return GoldenPerson(box=box, joints=tuple(joints))
