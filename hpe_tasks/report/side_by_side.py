"""Pictures of the same persons with the truth, the FP32 and the int8 skeleton side by side."""

from __future__ import annotations

import base64
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from hpe_tasks.data.dataset import Subject
from hpe_tasks.data.image_files import Unreadable, read_image
from hpe_tasks.errors import DatasetError
from hpe_tasks.pose.drawing import Stroke, draw_pose, draw_poses
from hpe_tasks.records.evaluation import ProtocolFingerprint
from hpe_tasks.report.subjects import PredictedPose, Predictions, Truth, agreement_text

# (W, H) of a picture: somewhat larger than it is shown, so that it is sharp on dense screens as well.
PICTURE_SIZE = (320, 400)
# The longer side of a whole image.
_IMAGE_SIDE = 560
SCORE_THRESHOLD = 0.2
_JPEG_QUALITY = 82
_MARGIN = 0.13
# The person fills the picture, so one thickness suits all.
_STROKE = Stroke.for_height(0.8 * PICTURE_SIZE[1])
_PADDING = (128, 128, 128)
# A person of whom hardly anything is labelled, or of whom FP32 saw nothing, tells little about quantization.
_MIN_LABELLED = 5
_MIN_SURE = 4
NOT_FOUND = "not found"


@dataclass(frozen=True)
class ComparedPerson:
    """One person in three pictures (JPEG data URIs).

    Attributes:
        number: Annotation id, or number in MPII's file.
        fp32_note: How well the pose fits the truth, or that there is none.
        disagreement: How far int8 moved the joints that FP32 is sure of, as `disagreement` measures it; None where
            one of the two did not find the person.
        reason: Why this person was chosen.
    """

    number: int
    caption: str
    disagreement: float | None
    truth: str
    fp32: str
    int8: str
    fp32_note: str
    int8_note: str
    reason: str


@dataclass(frozen=True)
class ComparedImage:
    """A whole image in three pictures (JPEG data URIs), with the number of poses in each."""

    caption: str
    truth: str
    fp32: str
    int8: str
    truth_count: int
    fp32_count: int
    int8_count: int
    reason: str


@dataclass(frozen=True)
class _Chosen:
    subject: Subject
    reason: str


def score_threshold(protocol: ProtocolFingerprint) -> float:
    """The score from which a joint is drawn; 0 for poses that hold only the joints that were found."""
    return 0.0 if protocol.box_source == "whole_image" else SCORE_THRESHOLD


def compare_persons(
    truth: Truth,
    fp32: Predictions,
    int8: Predictions,
    protocol: ProtocolFingerprint,
    *,
    seed: int,
    count: int = 6,
) -> tuple[ComparedPerson, ...]:
    """Choose persons and draw them.

    Half of them are the telling ones: on whom FP32 and int8 disagree most, and, where there are such persons, one
    whom only FP32 found and one whom only int8 found. The others come by seed.
    """
    joints = _compared_joints(protocol)
    threshold = score_threshold(protocol)
    chosen = _choose(truth.subjects, fp32.persons, int8.persons, joints, threshold, seed=seed, count=count)
    return tuple(
        _person(truth, each, fp32.persons.get(each.subject.number), int8.persons.get(each.subject.number), protocol)
        for each in chosen
    )


def _compared_joints(protocol: ProtocolFingerprint) -> npt.NDArray[np.intp]:
    return np.array([index for _, _, index in protocol.joint_map], dtype=np.intp)


def _choose(
    subjects: Sequence[Subject],
    fp32: Mapping[int, PredictedPose],
    int8: Mapping[int, PredictedPose],
    joints: npt.NDArray[np.intp],
    threshold: float,
    *,
    seed: int,
    count: int,
) -> list[_Chosen]:
    both = [s for s in subjects if s.number in fp32 and s.number in int8]
    telling = [
        s
        for s in both
        if np.count_nonzero(s.labelled[joints]) >= min(_MIN_LABELLED, len(joints))
        and np.count_nonzero(_sure(fp32[s.number], threshold)[joints]) >= min(_MIN_SURE, len(joints))
    ]
    candidates = telling if len(telling) >= count else both

    def order(subject: Subject) -> tuple[float, int]:
        apart = disagreement(subject, fp32[subject.number], int8[subject.number], joints, threshold=threshold)
        return -apart, subject.number

    one_sided = [
        _Chosen(most, f"found by {name} only")
        for name, here, there in (("FP32", fp32, int8), ("int8", int8, fp32))
        if (most := _most_labelled([s for s in subjects if s.number in here and s.number not in there], joints))
    ][: max(1, count // 2)]
    ranked = sorted(candidates, key=order)
    split = max(0, count // 2 - len(one_sided))
    worst, others = ranked[:split], sorted(ranked[split:], key=lambda s: s.number)
    drawn = random.Random(seed).sample(others, min(count - split - len(one_sided), len(others)))
    return [
        *(_Chosen(subject, "largest disagreement") for subject in worst),
        *one_sided,
        *(_Chosen(subject, "drawn by seed") for subject in drawn),
    ]


def _most_labelled(subjects: Sequence[Subject], joints: npt.NDArray[np.intp]) -> Subject | None:
    """The person with most labelled joints, the largest among equals."""
    return max(subjects, key=lambda s: (np.count_nonzero(s.labelled[joints]), s.size, -s.number), default=None)


def _sure(pose: PredictedPose, threshold: float) -> npt.NDArray[np.bool_]:
    return (pose.scores > 0) & (pose.scores >= threshold)


def disagreement(
    subject: Subject,
    fp32: PredictedPose,
    int8: PredictedPose,
    joints: npt.NDArray[np.intp],
    *,
    threshold: float = SCORE_THRESHOLD,
) -> float:
    """Mean distance between both models' joints over the person's size, where FP32 is sure; a lost joint counts 1."""
    sure = joints[_sure(fp32, threshold)[joints]]
    if not sure.size:
        return 0.0
    distances = np.linalg.norm(fp32.joints[sure] - int8.joints[sure], axis=1) / subject.size
    return float(np.where(int8.scores[sure] > 0, distances, 1.0).mean())


def _person(
    truth: Truth,
    chosen: _Chosen,
    fp32: PredictedPose | None,
    int8: PredictedPose | None,
    protocol: ProtocolFingerprint,
) -> ComparedPerson:
    """Of both predictions the joints are drawn that either model is sure of.

    So a joint that int8 is no longer sure of is shown where int8 puts it.
    """
    subject, joints, threshold = chosen.subject, _compared_joints(protocol), score_threshold(protocol)
    image = _read(subject.path)
    poses = [pose for pose in (fp32, int8) if pose is not None]
    sure = np.any([_sure(pose, threshold) for pose in poses], axis=0)
    nothing = np.zeros_like(subject.labelled)

    def drawn(pose: PredictedPose | None) -> str:
        points, shown = (subject.joints, nothing) if pose is None else (pose.joints, sure & (pose.scores > 0))
        return _picture(image, subject, points, _only(joints, shown), truth)

    def note(pose: PredictedPose | None) -> str:
        return NOT_FOUND if pose is None else agreement_text(subject, pose, protocol)

    return ComparedPerson(
        number=subject.number,
        caption=subject.caption,
        disagreement=disagreement(subject, fp32, int8, joints, threshold=threshold) if fp32 and int8 else None,
        truth=_picture(image, subject, subject.joints, _only(joints, subject.labelled), truth),
        fp32=drawn(fp32),
        int8=drawn(int8),
        fp32_note=note(fp32),
        int8_note=note(int8),
        reason=chosen.reason,
    )


def _read(path: Path) -> Image.Image:
    """The image as the networks saw it; raises DatasetError when it cannot be read any more."""
    bgr = read_image(path)
    if isinstance(bgr, Unreadable):
        raise DatasetError(f"The image {path} {bgr.reason}.")
    return Image.fromarray(bgr[..., ::-1])


def _only(joints: npt.NDArray[np.intp], condition: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    chosen = np.zeros_like(condition)
    chosen[joints] = condition[joints]
    return chosen


def _picture(
    image: Image.Image,
    subject: Subject,
    joints: npt.NDArray[np.float64],
    shown: npt.NDArray[np.bool_],
    truth: Truth,
) -> str:
    """Crop around the person, enlarge, and only then draw: the lines stay sharp on a small person."""
    left, top, width, height = crop_window(_extent(subject), image.size)
    window = Image.new("RGB", (width, height), _PADDING)
    window.paste(image, (-left, -top))
    pixels = np.array(window.resize(PICTURE_SIZE, Image.Resampling.LANCZOS))
    factor = PICTURE_SIZE[0] / width
    # Pixel centres are at whole coordinates, hence the halves.
    points = (joints + 0.5 - (left, top)) * factor - 0.5
    drawn = draw_pose(pixels, points, shown.astype(np.float64), truth.skeleton, threshold=0.5, stroke=_STROKE)
    return _data_uri(drawn)


def _data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _extent(subject: Subject) -> tuple[float, float, float, float]:
    """The person's box, grown to hold labelled joints outside it: hidden joints often are."""
    x, y, w, h = subject.box
    corners = np.vstack([subject.joints[subject.labelled], (x, y), (x + w, y + h)])
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


def compare_images(
    truth: Truth, fp32: Predictions, int8: Predictions, protocol: ProtocolFingerprint, *, seed: int
) -> tuple[ComparedImage, ...]:
    """Draw all people of two images with several: the one in which FP32 found most, and one drawn by seed."""
    persons = Counter(subject.image for subject in truth.subjects)
    several = [image for image, count in persons.items() if count > 1 and fp32.images.get(image, ())]
    if not several:
        return ()
    ranked = sorted(several, key=lambda image: (-len(fp32.images[image]), -persons[image]))
    chosen = [(ranked[0], "most people found")]
    found_several = [image for image in ranked[1:] if len(fp32.images[image]) > 1]
    if rest := sorted(found_several or ranked[1:], key=str):
        chosen.append((random.Random(seed).choice(rest), "drawn by seed"))
    joints = _compared_joints(protocol)
    compared = []
    for image, reason in chosen:
        subjects = [subject for subject in truth.subjects if subject.image == image]
        before, after = fp32.images[image], int8.images.get(image, ())
        annotated = [PredictedPose(s.joints, s.labelled.astype(np.float64)) for s in subjects]
        picture = _read(subjects[0].path)
        old, new = _whole(picture, before, joints, truth), _whole(picture, after, joints, truth)
        compared.append(
            ComparedImage(
                caption=f"{'' if isinstance(image, str) else f'Image {image}, '}{subjects[0].path.name}",
                truth=_whole(picture, annotated, joints, truth),
                fp32=old,
                int8=new,
                truth_count=len(subjects),
                fp32_count=len(before),
                int8_count=len(after),
                reason=reason,
            )
        )
    return tuple(compared)


def _whole(image: Image.Image, poses: Sequence[PredictedPose], joints: npt.NDArray[np.intp], truth: Truth) -> str:
    factor = _IMAGE_SIDE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    pixels = np.array(image.resize(size, Image.Resampling.LANCZOS))
    if poses:
        points = (np.stack([pose.joints for pose in poses]) + 0.5) * factor - 0.5
        shown = np.stack([_only(joints, pose.scores > 0) for pose in poses])
        pixels = draw_poses(pixels, points, shown.astype(np.float64), truth.skeleton, threshold=0.5)
    return _data_uri(pixels)
