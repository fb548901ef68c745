"""Skeletons drawn on photographs; numpy only, because the Lambda function ships this module.

Coordinates are (x, y) in pixels of the image that is drawn on; boxes are (x, y, w, h); images are H×W×3 uint8 RGB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hpe_tasks.skeletons import Skeleton

Rgb: TypeAlias = tuple[int, int, int]
Pixels: TypeAlias = npt.NDArray[np.uint8]

# Blue and orange stay apart for every common form of colour blindness; the outline keeps them apart from the photo.
LEFT: Rgb = (64, 180, 255)
RIGHT: Rgb = (255, 146, 43)
CENTRE: Rgb = (246, 247, 242)
OUTLINE: Rgb = (20, 22, 28)

# Share of the person's height. A limb is then about as thick as the bone that it stands for.
_LINE_SHARE = 0.011
_LINE_RANGE = (1.6, 32.0)
# The joints of the face lie close together: with dots of full size a small face would be one blot.
_FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_FACE_SHARE = 0.7


@dataclass(frozen=True)
class Stroke:
    """Thicknesses in pixels, so that a skeleton covers little of a small person and is seen on a large one."""

    line: float
    joint_radius: float
    outline: float

    @classmethod
    def for_height(cls, height: float) -> Stroke:
        """Thicknesses for a person that is `height` pixels tall."""
        line = float(np.clip(height * _LINE_SHARE, *_LINE_RANGE))
        return cls(line=line, joint_radius=line * 1.05, outline=max(1.0, line * 0.35))


def draw_pose(
    image: Pixels,
    keypoints: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    skeleton: Skeleton,
    *,
    threshold: float = 0.2,
    box: tuple[float, float, float, float] | None = None,
    stroke: Stroke | None = None,
) -> Pixels:
    """Draw one person's skeleton on a copy of an image.

    Args:
        image: H×W×3 uint8 RGB.
        keypoints: K×2, pixels of `image`, in the skeleton's joint order.
        scores: K; joints below `threshold` are left out, together with their limbs.
        skeleton: Joint names (which tell left from right) and limbs.
        threshold: Lowest score that is drawn.
        box: The person's box; sets the thickness of the lines. The extent of the joints stands in where it is None.
        stroke: Thickness of the lines, where the person's size shall not decide it.

    Returns:
        The new image, H×W×3 uint8.

    Raises:
        ValueError: An array has the wrong shape or type.
    """
    boxes = None if box is None else np.asarray(box, dtype=np.float64)[None]
    return draw_poses(image, keypoints[None], scores[None], skeleton, threshold=threshold, boxes=boxes, stroke=stroke)


def draw_poses(
    image: Pixels,
    keypoints: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    skeleton: Skeleton,
    *,
    threshold: float = 0.2,
    boxes: npt.NDArray[np.floating] | None = None,
    stroke: Stroke | None = None,
) -> Pixels:
    """Draw the skeletons of N persons (`keypoints` N×K×2, `scores` N×K, `boxes` N×4) as `draw_pose` does.

    Large persons come first: the thin lines of a small one would vanish under them.
    """
    _check(image, keypoints, scores, boxes, skeleton)
    picture = image.copy()
    points = np.asarray(keypoints, dtype=np.float64)
    visible = (scores >= threshold) & np.isfinite(points).all(axis=-1)
    drawn = np.flatnonzero(visible.any(axis=1))
    # The longer side, because people lie down as well; the joints reach less far than the person.
    heights = {
        i: float(boxes[i, 2:].max()) if boxes is not None else 1.2 * float(np.ptp(points[i, visible[i]], axis=0).max())
        for i in drawn
    }
    for i in sorted(drawn, key=lambda i: -heights[i]):
        _paint(picture, points[i], visible[i], skeleton, stroke or Stroke.for_height(heights[i]))
    return picture


def _check(
    image: Pixels,
    keypoints: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    boxes: npt.NDArray[np.floating] | None,
    skeleton: Skeleton,
) -> None:
    persons, joints = len(keypoints), len(skeleton.joints)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be H×W×3 uint8, not {image.shape} {image.dtype}")
    if keypoints.shape != (persons, joints, 2):
        raise ValueError(f"keypoints of {skeleton.name} must be {joints}×2 for each person, not {keypoints.shape}")
    if scores.shape != (persons, joints):
        raise ValueError(f"scores of {skeleton.name} must be {joints} for each person, not {scores.shape}")
    if boxes is not None and boxes.shape != (persons, 4):
        raise ValueError(f"boxes must be 4 numbers for each person, not {boxes.shape}")


def _paint(
    picture: Pixels,
    points: npt.NDArray[np.float64],
    visible: npt.NDArray[np.bool_],
    skeleton: Skeleton,
    stroke: Stroke,
) -> None:
    """Paint one skeleton on `picture`: limbs, then joints."""
    for a, b in skeleton.limb_indices():
        if visible[a] and visible[b]:
            # Limb by limb, so that where two cross one can see which passes over the other.
            share = _share(skeleton.joints[a]) if skeleton.joints[b] in _FACE else 1.0
            colour = limb_colour(skeleton.joints[a], skeleton.joints[b])
            _capsule(picture, points[a], points[b], share * stroke.line / 2, stroke.outline, colour)
    for joint in np.flatnonzero(visible):
        name = skeleton.joints[joint]
        radius = _share(name) * stroke.joint_radius
        _capsule(picture, points[joint], points[joint], radius, stroke.outline, joint_colour(name))


def _share(joint: str) -> float:
    return _FACE_SHARE if joint in _FACE else 1.0


def _capsule(
    picture: Pixels,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    radius: float,
    outline: float,
    colour: Rgb,
) -> None:
    """Paint all that lies within `radius` of a segment, with an outline around it.

    A pixel is covered by as much as it lies inside, measured from its centre: exact along a straight edge, and cheap
    because of each row only pixels near the segment are touched.
    """
    reach = radius + outline + 0.5
    (start_x, start_y), (end_x, end_y) = start.tolist(), end.tolist()
    left, right = _span(start_x, end_x, reach, picture.shape[1])
    top, bottom = _span(start_y, end_y, reach, picture.shape[0])
    if left >= right or top >= bottom:
        return  # it lies outside the image
    along_x, along_y = end_x - start_x, end_y - start_y
    length = math.hypot(along_x, along_y)
    rows = np.arange(top, bottom)
    # What lies within reach of the endless line through the segment takes this many pixels of every row.
    width, firsts = right - left, np.full(len(rows), left)
    if 2 * reach * length < (width - 2) * abs(along_y):
        half = reach * length / abs(along_y)
        width = math.ceil(2 * half) + 1
        middles = start_x + (rows - start_y) * (along_x / along_y)
        firsts = np.clip(np.floor(middles - half), left, right - width).astype(np.int64)
    # From the start of the segment; pixel centres are at whole coordinates.
    x = np.add.outer((firsts - start_x).astype(np.float32), np.arange(width, dtype=np.float32))
    y = (rows - start_y).astype(np.float32)[:, None]
    if length > 0:
        nearest = x * (along_x / length**2)
        nearest += y * (along_y / length**2)
        nearest.clip(0, 1, out=nearest)
        x -= nearest * along_x
        y = y - nearest * along_y
    distance = np.sqrt(x * x + y * y)
    inside, within_outline = ((r + 0.5 - distance).clip(0, 1) for r in (radius, radius + outline))
    outlined = within_outline * (1 - inside)
    paint = np.stack([inside, outlined], axis=-1).reshape(-1, 2) @ np.array([colour, OUTLINE], np.float32)
    # By value and not by pixel: NumPy picks and puts single numbers several times as fast as rows of three.
    values = picture.reshape(-1)
    touched = np.add.outer(3 * (rows * picture.shape[1] + firsts), np.arange(3 * width))
    mixed = values.take(touched) * np.repeat(1 - inside - outlined, 3, axis=1)
    mixed += paint.reshape(touched.shape)
    values[touched] = (mixed + np.float32(0.5)).astype(np.uint8)


def _span(start: float, end: float, reach: float, size: int) -> tuple[int, int]:
    """The pixels of a row or column, from the first to that after the last, that a segment's end or middle reaches."""
    low, high = min(start, end) - reach, max(start, end) + reach
    return max(0, math.floor(low)), min(size, math.ceil(high) + 1)


def joint_colour(joint: str) -> Rgb:
    """The colour of a joint's side of the body, read from its name."""
    if joint.startswith("left_"):
        return LEFT
    return RIGHT if joint.startswith("right_") else CENTRE


def limb_colour(start: str, end: str) -> Rgb:
    """The colour of the side that a limb lies on; a limb from left to right is a centre limb.

    A limb that joins the centre to one side (neck to shoulder, nose to eye) belongs to that side.
    """
    sides = {joint_colour(start), joint_colour(end)} - {CENTRE}
    return sides.pop() if len(sides) == 1 else CENTRE
