"""Skeletons drawn on photographs; numpy and Pillow only, because the Lambda function ships this module.

Coordinates are (x, y) in pixels of the image that is drawn on; boxes are (x, y, w, h); images are H×W×3 uint8 RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hpe_tasks.skeletons import Skeleton

Rgb: TypeAlias = tuple[int, int, int]
Pixels: TypeAlias = npt.NDArray[np.uint8]

# Blue and orange stay apart for every common form of colour blindness; the outline keeps them apart from the photo.
LEFT: Rgb = (64, 180, 255)
RIGHT: Rgb = (255, 146, 43)
CENTRE: Rgb = (246, 247, 242)
OUTLINE: Rgb = (20, 22, 28)

_SUPERSAMPLING = 4
# Share of the person's height. A limb is then about as thick as the bone that it stands for.
_LINE_SHARE = 0.011
_LINE_RANGE = (1.6, 9.0)


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
        return cls(line=line, joint_radius=line * 1.05, outline=max(0.8, line * 0.35))


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
    """Draw the skeletons of N persons (`keypoints` N×K×2, `scores` N×K, `boxes` N×4) as `draw_pose` does, in order."""
    _check(image, keypoints, scores, boxes, skeleton)
    picture = Image.fromarray(image)
    for i, (points, confidence) in enumerate(zip(keypoints, scores, strict=True)):
        visible = (confidence >= threshold) & np.isfinite(points).all(axis=1)
        if not visible.any():
            continue
        height = float(boxes[i, 3]) if boxes is not None else float(np.ptp(points[visible, 1])) * 1.2
        own = stroke or Stroke.for_height(height)
        _overlay(picture, np.asarray(points, dtype=np.float64), visible, skeleton, own)
    return np.array(picture)


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


def _overlay(
    picture: Image.Image,
    points: npt.NDArray[np.float64],
    visible: npt.NDArray[np.bool_],
    skeleton: Skeleton,
    stroke: Stroke,
) -> None:
    """Paint one skeleton on `picture`, anti-aliased by painting it larger and shrinking it."""
    reach = stroke.joint_radius + stroke.outline + 2
    low = np.maximum(np.floor(points[visible].min(axis=0) - reach), 0).astype(int)
    high = np.minimum(np.ceil(points[visible].max(axis=0) + reach), picture.size).astype(int)
    width, height = (int(n) for n in high - low)
    if width <= 0 or height <= 0:
        return  # the whole skeleton lies outside the image
    factor = _SUPERSAMPLING
    large = Image.new("RGBA", (width * factor, height * factor))
    # Pixel centres are at whole coordinates, so pixel (0, 0) covers -0.5 to 0.5.
    _paint(ImageDraw.Draw(large), (points - low + 0.5) * factor, visible, skeleton, stroke)
    small = large.resize((width, height), Image.Resampling.BOX)
    picture.paste(small, (int(low[0]), int(low[1])), small)


def _paint(
    draw: ImageDraw.ImageDraw,
    points: npt.NDArray[np.float64],
    visible: npt.NDArray[np.bool_],
    skeleton: Skeleton,
    stroke: Stroke,
) -> None:
    line, outline, radius = (_SUPERSAMPLING * s for s in (stroke.line, stroke.outline, stroke.joint_radius))
    for a, b in skeleton.limb_indices():
        if not (visible[a] and visible[b]):
            continue
        # Limb by limb, so that where two cross one can see which passes over the other.
        _capsule(draw, points[a], points[b], line / 2 + outline, OUTLINE)
        _capsule(draw, points[a], points[b], line / 2, limb_colour(skeleton.joints[a], skeleton.joints[b]))
    for joint in np.flatnonzero(visible):
        _disc(draw, points[joint], radius + outline, OUTLINE)
        _disc(draw, points[joint], radius, joint_colour(skeleton.joints[joint]))


def _capsule(
    draw: ImageDraw.ImageDraw,
    start: npt.NDArray[np.float64],
    end: npt.NDArray[np.float64],
    radius: float,
    colour: Rgb,
) -> None:
    length = float(np.hypot(*(end - start)))
    if length > 0:
        across = np.array([start[1] - end[1], end[0] - start[0]]) / length * radius
        corners = [start + across, end + across, end - across, start - across]
        draw.polygon([(float(x), float(y)) for x, y in corners], fill=(*colour, 255))
    _disc(draw, start, radius, colour)
    _disc(draw, end, radius, colour)


def _disc(draw: ImageDraw.ImageDraw, centre: npt.NDArray[np.float64], radius: float, colour: Rgb) -> None:
    x, y = float(centre[0]), float(centre[1])
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*colour, 255))


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
