"""Skeletons drawn on photographs; numpy only, because the Lambda function ships this module.

Coordinates are (x, y) in pixels of the image that is drawn on; boxes are (x, y, w, h); images are H×W×3 uint8 RGB, or
H×W×4 with a fourth value that stays as it is.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hpe_tasks.contract.frozen import frozen
from hpe_tasks.pose.skeletons import Skeleton

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
# Each takes about a hundred bytes while it is painted.
_PIXELS_AT_ONCE = 1 << 17
_SHORTEST = 1e-6


@frozen
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
    joints: npt.NDArray[np.floating],
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
        joints: K×2, pixels of `image`, in the skeleton's joint order.
        scores: K; joints below `threshold` are left out, together with their limbs.
        skeleton: Joint names (which tell left from right) and limbs.
        threshold: Lowest score that is drawn.
        box: The person's box; sets the thickness of the lines. The extent of the joints stands in where it is None.
        stroke: Thickness of the lines, where the person's size shall not decide it.

    Returns:
        The new image, of the same shape.

    Raises:
        ValueError: An array has the wrong shape or type.
    """
    boxes = None if box is None else np.asarray(box, dtype=np.float64)[None]
    return draw_poses(image, joints[None], scores[None], skeleton, threshold=threshold, boxes=boxes, stroke=stroke)


def draw_poses(
    image: Pixels,
    joints: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    skeleton: Skeleton,
    *,
    threshold: float = 0.2,
    boxes: npt.NDArray[np.floating] | None = None,
    stroke: Stroke | None = None,
) -> Pixels:
    """Draw the skeletons of N persons (`joints` N×K×2, `scores` N×K, `boxes` N×4) as `draw_pose` does.

    Large persons come first: the thin lines of a small one would vanish under them.
    """
    _check(image, joints, scores, boxes, skeleton)
    picture = image.copy()
    points = np.asarray(joints, dtype=np.float64)
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
    joints: npt.NDArray[np.floating],
    scores: npt.NDArray[np.floating],
    boxes: npt.NDArray[np.floating] | None,
    skeleton: Skeleton,
) -> None:
    persons, count = len(joints), len(skeleton.joints)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise ValueError(f"image must be H×W×3 uint8, not {image.shape} {image.dtype}")
    if joints.shape != (persons, count, 2):
        raise ValueError(f"joints of {skeleton.name} must be {count}×2 for each person, not {joints.shape}")
    if scores.shape != (persons, count):
        raise ValueError(f"scores of {skeleton.name} must be {count} for each person, not {scores.shape}")
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
    places, shapes = points.tolist(), []
    for a, b in skeleton.limb_indices():
        if visible[a] and visible[b]:
            # Limb by limb, so that where two cross one can see which passes over the other.
            share = _share(skeleton.joints[a]) if skeleton.joints[b] in _FACE else 1.0
            colour = limb_colour(skeleton.joints[a], skeleton.joints[b])
            shapes.append(_Capsule(places[a], places[b], share * stroke.line / 2, colour))
    for joint in np.flatnonzero(visible).tolist():
        name = skeleton.joints[joint]
        shapes.append(_Capsule(places[joint], places[joint], _share(name) * stroke.joint_radius, joint_colour(name)))
    batch: list[tuple[_Capsule, _Reached]] = []
    pixels = 0
    for shape in shapes:
        reached = _reached(shape, stroke.outline, picture.shape[:2])
        if reached is None:
            continue  # it lies outside the image
        pixels += reached.pixels
        if batch and pixels > _PIXELS_AT_ONCE:
            _cover(picture, batch, stroke.outline)
            batch, pixels = [], reached.pixels
        batch.append((shape, reached))
    if batch:
        _cover(picture, batch, stroke.outline)


def _share(joint: str) -> float:
    return _FACE_SHARE if joint in _FACE else 1.0


class _Capsule(NamedTuple):
    """All that lies within `radius` of a segment between two (x, y)."""

    start: list[float]
    end: list[float]
    radius: float
    colour: Rgb


class _Reached(NamedTuple):
    """The pixels that a capsule may touch: in each row from `top` to before `bottom` as many as `width`.

    The first of a row is `slope` further right than that of the row above, but not left of `left` or right of `last`.
    """

    top: int
    bottom: int
    width: int
    left: int
    last: int
    first: float
    slope: float

    @property
    def pixels(self) -> int:
        return (self.bottom - self.top) * self.width


def _reached(capsule: _Capsule, outline: float, size: tuple[int, ...]) -> _Reached | None:
    """Where a capsule and its outline lie in a picture of `size` (H, W); None where they lie outside."""
    reach = capsule.radius + outline + 0.5
    (start_x, start_y), (end_x, end_y) = capsule.start, capsule.end
    left, right = _span(start_x, end_x, reach, size[1])
    top, bottom = _span(start_y, end_y, reach, size[0])
    if left >= right or top >= bottom:
        return None
    along_x, along_y = end_x - start_x, end_y - start_y
    # What lies within reach of the endless line through the segment takes twice this many pixels of every row.
    length, width = math.hypot(along_x, along_y), right - left
    if 2 * reach * length >= (width - 2) * abs(along_y):
        return _Reached(top, bottom, width, left, left, left, 0.0)
    half, slope = reach * length / abs(along_y), along_x / along_y
    width = math.ceil(2 * half) + 1
    return _Reached(top, bottom, width, left, right - width, start_x + (top - start_y) * slope - half, slope)


def _cover(picture: Pixels, shapes: list[tuple[_Capsule, _Reached]], outline: float) -> None:
    """Paint capsules with an outline around each, one over the other.

    How much of each pixel they cover is computed for all of them at once, because a limb has so few pixels that NumPy
    would take longer to begin.
    """
    x, y, end_x, end_y, radius = np.array([(*c.start, *c.end, c.radius) for c, _ in shapes]).T
    top, bottom, width, left, last, first, slope = np.array([reached for _, reached in shapes]).T
    # The rows of all capsules, then the pixels of all rows; the names of arrays say what they have an entry for.
    rows = (bottom - top).astype(np.int64)
    capsule = np.repeat(np.arange(len(shapes)), rows)
    down = np.arange(len(capsule)) - (np.cumsum(rows) - rows)[capsule]
    row = down + top[capsule]
    column = np.floor(first[capsule] + down * slope[capsule]).clip(left[capsule], last[capsule])
    pixels = width[capsule].astype(np.int64)

    def each(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return np.repeat(values.astype(np.float32), pixels)

    right = np.arange(pixels.sum()) - np.repeat(np.cumsum(pixels) - pixels, pixels)
    index = np.repeat((row * picture.shape[1] + column).astype(np.int64), pixels) + right
    # From the start of the segment; pixel centres are at whole coordinates.
    away_x = each(column - x[capsule]) + right.astype(np.float32)
    away_y = each(row - y[capsule])
    along_x, along_y = end_x - x, end_y - y
    square = along_x**2 + along_y**2
    # What is as short is a point, as a joint is: that is the nearest, whatever it is divided by.
    square = np.where(square > _SHORTEST**2, square, 1)
    nearest = away_x * each((along_x / square)[capsule]) + away_y * each((along_y / square)[capsule])
    nearest.clip(0, 1, out=nearest)
    away_x -= nearest * each(along_x[capsule])
    away_y -= nearest * each(along_y[capsule])
    distance = np.sqrt(away_x * away_x + away_y * away_y)
    # A pixel is covered by as much as it lies inside, measured from its centre: exact along a straight edge.
    inside = (each(radius[capsule] + 0.5) - distance).clip(0, 1)
    outlined = (each(radius[capsule] + (outline + 0.5)) - distance).clip(0, 1) * (1 - inside)
    _mix(picture, [(reached.pixels, c.colour) for c, reached in shapes], index, inside, outlined)


def _mix(
    picture: Pixels,
    shapes: list[tuple[int, Rgb]],
    index: npt.NDArray[np.int64],
    inside: npt.NDArray[np.float32],
    outlined: npt.NDArray[np.float32],
) -> None:
    """Mix the colours of shapes, each with so many of the pixels, and of their outlines into the picture."""
    counts = np.array([count for count, _ in shapes])
    colours = np.array([colour for _, colour in shapes], np.float32).T
    # Channel by channel and not pixel by pixel: NumPy is several times as fast with long rows as with rows of three.
    values, touched = picture.reshape(-1), picture.shape[2] * index + np.arange(3)[:, None]
    kept = 1 - inside - outlined
    paint = np.repeat(colours, counts, axis=1) * inside
    paint += outlined * np.array(OUTLINE, np.float32)[:, None]
    paint += np.float32(0.5)
    end = 0
    for count in counts.tolist():
        start, end = end, end + count
        where = touched[:, start:end]
        mixed = values.take(where) * kept[start:end]
        mixed += paint[:, start:end]
        values[where] = mixed.astype(np.uint8)


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
