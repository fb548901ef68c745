"""The picture that the sample's scenes are drawn on, with a map of who owns each pixel."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]
Polygon = npt.NDArray[np.float64]
"""Points N×2, (x, y) in pixels."""

_SHIFT = 4
_ARC = np.linspace(-np.pi / 2, np.pi / 2, 9)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Colour in blue, green, red from hue, saturation and value, each in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return round(blue * 255), round(green * 255), round(red * 255)


def shade(colour: Colour, factor: float) -> Colour:
    """The colour made darker (factor below 1) or lighter."""
    blue, green, red = (min(255, max(0, round(channel * factor))) for channel in colour)
    return blue, green, red


def capsule(start: Polygon, end: Polygon, start_radius: float, end_radius: float) -> Polygon:
    """Outline of a limb: two circles and the straight sides between them."""
    dx, dy = end - start
    angle = np.arctan2(dy, dx)
    # A circle that swallows the other needs its full round: a limb that points at the viewer.
    far = angle + _ARC
    near = angle + np.pi + _ARC
    tip = end + end_radius * np.stack([np.cos(far), np.sin(far)], axis=1)
    root = start + start_radius * np.stack([np.cos(near), np.sin(near)], axis=1)
    return np.concatenate([tip, root])


def circle(centre: Polygon, radius: float) -> Polygon:
    """Outline of a circle."""
    return capsule(centre, centre, radius, radius)


def hull(points: Polygon) -> Polygon:
    """Convex outline of the points."""
    return cv2.convexHull(points.astype(np.float32)).reshape(-1, 2).astype(np.float64)


class Canvas:
    """An image under the brush.

    Attributes:
        image: H×W×3 uint8 in blue, green, red.
        owner: H×W int16; the person whose part lies on top (1 is the first), 0 where there is none.
        part: H×W uint8; number of that part on the person.
    """

    def __init__(self, image: npt.NDArray[np.uint8]) -> None:
        self.image = image
        self.owner = np.zeros(image.shape[:2], dtype=np.int16)
        self.part = np.zeros(image.shape[:2], dtype=np.uint8)

    @property
    def height(self) -> int:
        """Rows of the image."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Columns of the image."""
        return int(self.image.shape[1])

    def fill(self, outline: Polygon, colour: Colour) -> None:
        """Paint a polygon with smooth edges; the owner map stays as it is."""
        cv2.fillPoly(self.image, [_fixed(outline)], colour, lineType=cv2.LINE_AA, shift=_SHIFT)

    def claim(self, outline: Polygon, owner: int, part: int) -> None:
        """Record that a polygon belongs to a part of a person; owner 0 hides whoever was there."""
        points = [_fixed(outline)]
        cv2.fillPoly(self.owner, points, owner, shift=_SHIFT)
        cv2.fillPoly(self.part, points, part, shift=_SHIFT)

    def line(self, points: Polygon, colour: Colour, width: float) -> None:
        """Paint an open line through the points."""
        thickness = max(1, round(width))
        cv2.polylines(self.image, [_fixed(points)], False, colour, thickness, cv2.LINE_AA, _SHIFT)

    def pattern(self, outline: Polygon, stripes: list[Polygon], colour: Colour) -> None:
        """Paint polygons, but only where they lie inside the outline."""
        low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 2, [self.width, self.height])
        if (high <= low).any():
            return
        region = self.image[low[1] : high[1], low[0] : high[0]]
        inside = np.zeros(region.shape[:2], dtype=np.uint8)
        cv2.fillPoly(inside, [_fixed(outline - low)], 255, shift=_SHIFT)
        painted = np.ascontiguousarray(region)
        cv2.fillPoly(painted, [_fixed(s - low) for s in stripes], colour, lineType=cv2.LINE_AA, shift=_SHIFT)
        region[inside > 0] = painted[inside > 0]

    def blend(self, x: int, y: int, patch: npt.NDArray[np.float32], alpha: npt.NDArray[np.float32]) -> None:
        """Lay a patch (h×w×3, values 0 to 255) over the image with its upper left corner at (x, y)."""
        height, width = alpha.shape
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, self.width), min(y + height, self.height)
        if right <= left or bottom <= top:
            return
        rows, columns = slice(top - y, bottom - y), slice(left - x, right - x)
        weight = alpha[rows, columns, None]
        below = self.image[top:bottom, left:right]
        below[:] = np.rint(below * (1 - weight) + patch[rows, columns] * weight).astype(np.uint8)


def _fixed(outline: Polygon) -> npt.NDArray[np.int32]:
    return np.rint(np.asarray(outline) * (1 << _SHIFT)).astype(np.int32).reshape(-1, 1, 2)
