"""Pictures of the same persons with the truth, the FP32 and the int8 skeleton side by side."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpe_tasks.data.coco import CocoKeypoints, Person
from hpe_tasks.drawing import Stroke, draw_pose
from hpe_tasks.metrics.oks import oks
from hpe_tasks.results import ProtocolFingerprint
from hpe_tasks.skeletons import COCO17, Skeleton

# (W, H) of a picture: somewhat larger than it is shown, so that it is sharp on dense screens as well.
PICTURE_SIZE = (320, 400)
SCORE_THRESHOLD = 0.2
_JPEG_QUALITY = 82
_MARGIN = 0.13
# The person fills the picture, so one thickness suits all.
_STROKE = Stroke.for_height(0.8 * PICTURE_SIZE[1])
_PADDING = (128, 128, 128)
# A person of whom hardly anything is labelled, or of whom FP32 saw nothing, tells little about quantization.
_MIN_LABELLED = 5
_MIN_SURE = 4


@dataclass(frozen=True)
class PredictedPose:
    """One entry of a predictions file: K×2 pixels of the image, K scores."""

    keypoints: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]


@dataclass(frozen=True)
class ComparedPerson:
    """One person in three pictures (JPEG data URIs).

    Attributes:
        disagreement: How far int8 moved the joints that FP32 is sure of, as `disagreement` measures it.
        reason: Why this person was chosen.
    """

    image_id: int
    annotation_id: int
    file_name: str
    disagreement: float
    fp32_oks: float
    int8_oks: float
    truth: str
    fp32: str
    int8: str
    reason: str


def read_predictions(path: Path) -> dict[int, PredictedPose]:
    """The poses of a COCO results file that an evaluation has written, by annotation id."""
    poses = {}
    for entry in json.loads(path.read_text(encoding="utf-8")):
        joints = np.asarray(entry["keypoints"], dtype=np.float64).reshape(-1, 3)
        poses[int(entry["annotation_id"])] = PredictedPose(joints[:, :2], joints[:, 2])
    return poses


def compare_persons(
    dataset: CocoKeypoints,
    fp32: Mapping[int, PredictedPose],
    int8: Mapping[int, PredictedPose],
    fingerprint: ProtocolFingerprint,
    *,
    seed: int,
    count: int = 6,
) -> tuple[ComparedPerson, ...]:
    """Choose persons and draw them: half are those on whom FP32 and int8 disagree most, the others come by seed."""
    joints = np.array([index for _, _, index in fingerprint.joint_map], dtype=np.intp)
    sigmas = np.array(fingerprint.sigmas)
    worst, typical = _choose(dataset.all_persons(), fp32, int8, joints, seed=seed, count=count)
    files = {image.id: (image.file_name, dataset.image_path(image)) for image in dataset.images}
    skeleton = Skeleton(name="dataset", joints=dataset.keypoint_names, limbs=COCO17.limbs)
    compared = []
    for person in worst + typical:
        before, after = fp32[person.annotation_id], int8[person.annotation_id]
        name, path = files[person.image_id]
        truth, old, new = _pictures(_read(path), person, before, after, skeleton, joints)
        compared.append(
            ComparedPerson(
                image_id=person.image_id,
                annotation_id=person.annotation_id,
                file_name=name,
                disagreement=disagreement(person, before, after, joints),
                fp32_oks=person_oks(person, before, joints, sigmas),
                int8_oks=person_oks(person, after, joints, sigmas),
                truth=truth,
                fp32=old,
                int8=new,
                reason="largest disagreement" if person in worst else "drawn by seed",
            )
        )
    return tuple(compared)


def _choose(
    persons: Sequence[Person],
    fp32: Mapping[int, PredictedPose],
    int8: Mapping[int, PredictedPose],
    joints: npt.NDArray[np.intp],
    *,
    seed: int,
    count: int,
) -> tuple[list[Person], list[Person]]:
    """The persons with the largest disagreement, and others drawn by seed."""
    both = [p for p in persons if p.annotation_id in fp32 and p.annotation_id in int8]
    telling = [
        p
        for p in both
        if np.count_nonzero(p.keypoints[joints, 2] > 0) >= min(_MIN_LABELLED, len(joints))
        and np.count_nonzero(fp32[p.annotation_id].scores[joints] >= SCORE_THRESHOLD) >= min(_MIN_SURE, len(joints))
    ]
    candidates = telling if len(telling) >= count else both

    def order(person: Person) -> tuple[float, int]:
        apart = disagreement(person, fp32[person.annotation_id], int8[person.annotation_id], joints)
        return -apart, person.annotation_id

    ranked = sorted(candidates, key=order)
    worst, others = ranked[: count // 2], sorted(ranked[count // 2 :], key=lambda p: p.annotation_id)
    return worst, random.Random(seed).sample(others, min(count - len(worst), len(others)))


def disagreement(person: Person, fp32: PredictedPose, int8: PredictedPose, joints: npt.NDArray[np.intp]) -> float:
    """Mean distance between both models' joints over the square root of the person's area, where FP32 is sure."""
    sure = joints[fp32.scores[joints] >= SCORE_THRESHOLD]
    if not sure.size:
        return 0.0
    distances = np.linalg.norm(fp32.keypoints[sure] - int8.keypoints[sure], axis=1)
    return float(distances.mean() / np.sqrt(max(person.area, 1.0)))


def person_oks(
    person: Person,
    pose: PredictedPose,
    joints: npt.NDArray[np.intp],
    sigmas: npt.NDArray[np.float64],
) -> float:
    """Object keypoint similarity of one pose to the truth, over the labelled joints that are compared."""
    truth = person.keypoints[joints]
    labelled = truth[:, 2] > 0
    if not labelled.any():
        return 0.0
    here = joints[labelled]
    return float(oks(pose.keypoints[here], truth[None, labelled, :2], person.area, sigmas[labelled])[0])


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _only(joints: npt.NDArray[np.intp], condition: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    chosen = np.zeros_like(condition)
    chosen[joints] = condition[joints]
    return chosen


def _pictures(
    image: Image.Image,
    person: Person,
    fp32: PredictedPose,
    int8: PredictedPose,
    skeleton: Skeleton,
    joints: npt.NDArray[np.intp],
) -> list[str]:
    """Truth, FP32 and int8. Of both predictions the joints are drawn that either model is sure of.

    So a joint that int8 has lost is shown where int8 puts it.
    """
    labelled = _only(joints, person.keypoints[:, 2] > 0)
    sure = _only(joints, np.maximum(fp32.scores, int8.scores) >= SCORE_THRESHOLD)
    shown = (
        (person.keypoints[:, :2].astype(np.float64), labelled),
        (fp32.keypoints, sure),
        (int8.keypoints, sure),
    )
    return [_picture(image, person, points, drawn, skeleton) for points, drawn in shown]


def _picture(
    image: Image.Image,
    person: Person,
    keypoints: npt.NDArray[np.float64],
    shown: npt.NDArray[np.bool_],
    skeleton: Skeleton,
) -> str:
    """Crop around the person, enlarge, and only then draw: the lines stay sharp on a small person."""
    left, top, width, height = crop_window(_extent(person), image.size)
    window = Image.new("RGB", (width, height), _PADDING)
    window.paste(image, (-left, -top))
    pixels = np.array(window.resize(PICTURE_SIZE, Image.Resampling.LANCZOS))
    factor = PICTURE_SIZE[0] / width
    # Pixel centres are at whole coordinates, hence the halves.
    points = (keypoints + 0.5 - (left, top)) * factor - 0.5
    drawn = draw_pose(pixels, points, shown.astype(np.float64), skeleton, threshold=0.5, stroke=_STROKE)
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _extent(person: Person) -> tuple[float, float, float, float]:
    """The person's box, grown to hold labelled joints outside it: hidden joints often are."""
    x, y, w, h = person.box
    labelled = person.keypoints[person.keypoints[:, 2] > 0, :2]
    corners = np.vstack([labelled, (x, y), (x + w, y + h)])
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return float(left), float(top), float(right - left), float(bottom - top)


def crop_window(box: tuple[float, float, float, float], image_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, width, height) around a box with a margin, in the shape of a picture; inside the image if it fits."""
    x, y, w, h = box
    aspect = PICTURE_SIZE[0] / PICTURE_SIZE[1]
    height = max(h, w / aspect, 16.0) * (1 + 2 * _MARGIN)
    size = (max(1, round(height * aspect)), max(1, round(height)))
    corner = []
    for start, length, extent, limit in zip((x, y), (w, h), size, image_size, strict=True):
        low = round(start + length / 2 - extent / 2)
        if extent <= limit:
            low = min(max(low, 0), limit - extent)
        corner.append(low)
    return corner[0], corner[1], size[0], size[1]
