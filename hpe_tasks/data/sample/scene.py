"""Backgrounds and objects of the sample's pictures: gradients, walls, shapes, textures and noise."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from hpe_tasks.data.sample.canvas import Canvas, Colour, Polygon, capsule, circle, hsv, shade
from hpe_tasks.data.sample.pose import Rng

# Air and walls; earth, grass, sand, stone and floors.
_SKY_HUES = (0.55, 0.58, 0.6, 0.1, 0.08, 0.05, 0.4, 0.75)
_GROUND_HUES = (0.09, 0.12, 0.25, 0.3, 0.35, 0.07, 0.6, 0.03)

SCENERIES = ("city", "trees", "room", "shapes")
"""What stands behind the people, in the order in which it is drawn from."""


def _box(x: float, y: float, width: float, height: float) -> Polygon:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])


def _colour(
    rng: Rng, saturation: tuple[float, float] = (0.05, 0.7), value: tuple[float, float] = (0.2, 0.95)
) -> Colour:
    return hsv(rng.random(), rng.uniform(*saturation), rng.uniform(*value))


def paint_background(rng: Rng, width: int, height: int) -> tuple[Canvas, float, str]:
    """Paint a room or a landscape.

    Returns:
        The canvas, the row at which the ground begins, and which of SCENERIES it is.
    """
    horizon = height * rng.uniform(0.38, 0.66)
    image = np.empty((height, width, 3), dtype=np.float32)
    _gradient(rng, image[: round(horizon)], _SKY_HUES)
    _gradient(rng, image[round(horizon) :], _GROUND_HUES)
    image += _texture(rng, width, height)
    canvas = Canvas(np.clip(image, 0, 255).astype(np.uint8))
    scenery = SCENERIES[int(rng.integers(len(SCENERIES)))]
    {"city": _city, "trees": _trees, "room": _room, "shapes": _shapes}[scenery](rng, canvas, horizon)
    for _ in range(int(rng.integers(1, 5))):
        _clutter(rng, canvas, horizon)
    if rng.random() < 0.35:
        # As a lens does with what is far behind the people.
        canvas.image[:] = cv2.GaussianBlur(canvas.image, (0, 0), rng.uniform(0.8, 2.2))
    return canvas, horizon, scenery


def _gradient(rng: Rng, region: npt.NDArray[np.float32], hues: tuple[float, ...]) -> None:
    def tone() -> npt.NDArray[np.float64]:
        hue = hues[int(rng.integers(len(hues)))] + rng.normal(0, 0.02)
        return np.array(hsv(hue, rng.uniform(0.03, 0.45), rng.uniform(0.35, 0.95)), dtype=np.float64)

    first, second = tone(), tone()
    # Colours that resemble each other: a wall or a sky, not a poster.
    second = first * 0.5 + second * 0.5
    share = np.linspace(0, 1, max(region.shape[0], 1), dtype=np.float32)[:, None, None]
    region[:] = first * (1 - share) + second * share


def _texture(rng: Rng, width: int, height: int) -> npt.NDArray[np.float32]:
    """Smooth blotches of several sizes."""
    total = np.zeros((height, width, 1), dtype=np.float32)
    for cells in (5, 16, 48):
        blotches = rng.normal(0, rng.uniform(1, 7), (cells, cells)).astype(np.float32)
        total += cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    return total


def _city(rng: Rng, canvas: Canvas, horizon: float) -> None:
    x = -rng.uniform(0, 40)
    while x < canvas.width:
        width, height = rng.uniform(40, 110), rng.uniform(0.3, 1.1) * horizon
        wall = _colour(rng, (0.02, 0.4), (0.3, 0.85))
        canvas.fill(_box(x, horizon - height, width, height), wall)
        lit = _colour(rng, (0.1, 0.6), (0.4, 1.0))
        step = rng.uniform(12, 22)
        for wx in np.arange(x + 6, x + width - 10, step):
            for wy in np.arange(horizon - height + 6, horizon - 12, step * 1.2):
                canvas.fill(_box(wx, wy, step * 0.5, step * 0.6), lit if rng.random() < 0.5 else shade(wall, 0.6))
        x += width + rng.uniform(-4, 18)


def _trees(rng: Rng, canvas: Canvas, horizon: float) -> None:
    ridge = np.cumsum(rng.normal(0, 9, 12))
    hills = np.stack([np.linspace(-10, canvas.width + 10, 12), horizon - 25 - np.abs(ridge)], axis=1)
    corners = np.array([[canvas.width + 10, horizon], [-10, horizon]])
    canvas.fill(np.concatenate([hills, corners]), hsv(rng.uniform(0.25, 0.6), 0.3, rng.uniform(0.3, 0.7)))
    for _ in range(int(rng.integers(2, 7))):
        x, base = rng.uniform(0, canvas.width), horizon + rng.uniform(-4, 30)
        size = rng.uniform(18, 55)
        trunk = hsv(0.07, 0.5, rng.uniform(0.2, 0.45))
        canvas.fill(_box(x - size * 0.1, base - size * 1.3, size * 0.2, size * 1.3), trunk)
        green = hsv(rng.uniform(0.2, 0.42), rng.uniform(0.4, 0.8), rng.uniform(0.25, 0.6))
        for _ in range(6):
            at = np.array([x, base - size * 1.6]) + rng.normal(0, size * 0.32, 2)
            canvas.fill(circle(at, size * rng.uniform(0.3, 0.5)), shade(green, rng.uniform(0.8, 1.2)))


def _room(rng: Rng, canvas: Canvas, horizon: float) -> None:
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.uniform(0, canvas.width - 60), rng.uniform(5, horizon * 0.5)
        width, height = rng.uniform(40, 120), rng.uniform(35, max(35.0, horizon * 0.6))
        canvas.fill(_box(x - 4, y - 4, width + 8, height + 8), _colour(rng, (0.0, 0.4)))
        canvas.fill(_box(x, y, width, height), _colour(rng, (0.1, 0.5), (0.5, 1.0)))
        canvas.line(np.array([[x + width / 2, y], [x + width / 2, y + height]]), _colour(rng), 3)
    floor = _colour(rng, (0.1, 0.5), (0.3, 0.8))
    centre = rng.uniform(0.3, 0.7) * canvas.width
    for offset in np.linspace(-3, 3, 15):
        # Floor boards that run to a vanishing point.
        near = centre + offset * canvas.width * 0.6
        far = centre + offset * canvas.width * 0.25
        canvas.line(np.array([[far, horizon], [near, canvas.height]]), shade(floor, 0.8), 1.5)
    canvas.fill(_box(0, horizon - 4, canvas.width, 7), shade(floor, 0.6))


def _shapes(rng: Rng, canvas: Canvas, horizon: float) -> None:  # noqa: ARG001
    for _ in range(int(rng.integers(8, 22))):
        at = np.array([rng.uniform(0, canvas.width), rng.uniform(0, canvas.height)])
        kind, size = int(rng.integers(3)), rng.uniform(8, 60)
        if kind == 0:
            canvas.fill(circle(at, size * 0.6), _colour(rng))
        elif kind == 1:
            canvas.fill(_box(at[0], at[1], size, size * rng.uniform(0.3, 2)), _colour(rng))
        else:
            canvas.fill(at + rng.normal(0, size * 0.7, (3, 2)), _colour(rng))


def _clutter(rng: Rng, canvas: Canvas, horizon: float) -> None:
    """Things that resemble parts of people: poles, balls, rods, boxes."""
    at = np.array([rng.uniform(0, canvas.width), rng.uniform(horizon * 0.5, canvas.height)])
    kind, size = int(rng.integers(4)), rng.uniform(10, 40)
    colour = _colour(rng)
    if kind == 0:
        canvas.fill(_box(at[0], at[1] - size * 4, size * 0.2, size * 4), colour)
    elif kind == 1:
        canvas.fill(circle(at, size * 0.45), shade(colour, 0.6))
        canvas.fill(circle(at - size * 0.06, size * 0.36), colour)
    elif kind == 2:
        reach = rng.normal(0, size, 2)
        canvas.fill(capsule(at, at + reach, size * 0.15, size * 0.12), colour)
    else:
        canvas.fill(_box(at[0], at[1] - size, size, size), shade(colour, 0.7))
        canvas.fill(_box(at[0] + 2, at[1] - size + 2, size - 4, size - 4), colour)


def paint_shadow(canvas: Canvas, x: float, y: float, radius: float) -> None:
    """Darken the ground under a person's feet."""
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    outline = np.stack([x + radius * np.cos(angle), y + 0.22 * radius * np.sin(angle)], axis=1)
    shadow = np.zeros(canvas.image.shape[:2], dtype=np.uint8)
    cv2.fillConvexPoly(shadow, np.rint(outline).astype(np.int32), 90, lineType=cv2.LINE_AA)
    rows = slice(max(0, int(y - radius * 0.4)), max(0, int(y + radius * 0.4) + 1))
    weight = 1 - shadow[rows, :, None].astype(np.float32) / 255
    canvas.image[rows] = (canvas.image[rows] * weight).astype(np.uint8)


def paint_seat(rng: Rng, canvas: Canvas, x: float, seat: float, ground: float, width: float) -> None:
    """A box or a chair under a person who sits; drawn before the person."""
    colour = _colour(rng, (0.1, 0.7), (0.25, 0.8))
    if rng.random() < 0.5:
        canvas.fill(_box(x - width / 2, seat - width * 1.3, width, width * 1.4), shade(colour, 0.7))
    canvas.fill(_box(x - width * 0.6, seat, width * 1.2, max(ground - seat, 2.0) * 0.85), colour)
    canvas.fill(_box(x - width * 0.6, seat, width * 1.2, width * 0.12), shade(colour, 1.2))


def paint_obstacle(rng: Rng, canvas: Canvas, x: float, y: float, size: float) -> None:
    """Put an object in front of the people: what it covers no longer belongs to any of them."""
    colour = _colour(rng)
    kind = int(rng.integers(4))
    if kind == 0:
        parts = [(_box(x - size * 0.5, y - size * 0.7, size, size * 0.7), colour)]
        parts.append((_box(x - size * 0.44, y - size * 0.64, size * 0.88, size * 0.2), shade(colour, 1.15)))
    elif kind == 1:
        parts = [(_box(x - size * 0.05, y - size * 2.6, size * 0.12, size * 2.6), shade(colour, 0.8))]
    elif kind == 2:
        green = hsv(rng.uniform(0.22, 0.4), rng.uniform(0.4, 0.8), rng.uniform(0.25, 0.6))
        offsets = rng.normal(0, size * 0.25, (7, 2))
        parts = [
            (circle(np.array([x, y - size * 0.3]) + offset, size * 0.24), shade(green, rng.uniform(0.8, 1.2)))
            for offset in offsets
        ]
    else:
        parts = [
            (circle(np.array([x, y - size * 0.3]), size * 0.3), shade(colour, 0.7)),
            (circle(np.array([x - size * 0.03, y - size * 0.33]), size * 0.25), colour),
        ]
    for outline, paint in parts:
        canvas.fill(outline, paint)
        canvas.claim(outline, 0, 0)


def develop(rng: Rng, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Give the drawing a camera's exposure, white balance, blur and noise."""
    gain = rng.uniform(0.8, 1.15) * rng.uniform(0.94, 1.06, 3)
    out: npt.NDArray[np.float32] = image.astype(np.float32) * gain.astype(np.float32) + rng.uniform(-14, 14)
    if rng.random() < 0.25:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.4, 0.9)).astype(np.float32, copy=False)
    out += rng.standard_normal(out.shape[:2], dtype=np.float32)[..., None] * rng.uniform(1, 5)
    developed: npt.NDArray[np.uint8] = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    return developed
