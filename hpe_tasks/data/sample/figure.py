"""Drawing one person of the sample: clothes, hair and face on a posed body, part by part from the back to the front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hpe_tasks.data.sample.canvas import Canvas, Colour, Polygon, capsule, circle, hull, shade
from hpe_tasks.data.sample.pose import LEFT, SIDES, Body, Vector
from hpe_tasks.data.sample.style import Style
from hpe_tasks.pose.skeletons import COCO17

# Numbers in the canvas's part map.
_TORSO, _NECK, _HEAD, _HAIR_PART, _PACK = 1, 2, 3, 4, 5
_LIMBS = {"upper_arm": 10, "forearm": 12, "thigh": 14, "shin": 16, "foot": 18}

_FACE: dict[str, tuple[float, float, float]] = {
    # Left, down, forward, in head radii.
    "nose": (0.0, 0.22, 1.04),
    "left_eye": (0.38, -0.08, 0.90),
    "right_eye": (-0.38, -0.08, 0.90),
    "left_ear": (0.98, 0.10, -0.05),
    "right_ear": (-0.98, 0.10, -0.05),
}


_MIDDLE = ("head", "neck", "top_head")


def _limb(name: str, side: int) -> int:
    return _LIMBS[name] + (0 if side == LEFT else 1)


def showing_parts(joints: Sequence[str] = COCO17.joints) -> tuple[frozenset[int], ...]:
    """For each joint the parts that, lying on top of it, do not hide it."""
    near = {
        "shoulder": (_TORSO, "upper_arm", _NECK),
        "elbow": ("upper_arm", "forearm"),
        "wrist": ("forearm",),
        "hip": (_TORSO, "thigh"),
        "knee": ("thigh", "shin"),
        "ankle": ("shin", "foot"),
        "hand": ("forearm",),
        "foot": ("shin", "foot"),
    }
    shown = []
    for joint in joints:
        if joint in _FACE:
            shown.append(frozenset({_HEAD}))
            continue
        if joint in _MIDDLE:
            shown.append(frozenset({_TORSO, _NECK, _HEAD, _HAIR_PART}))
            continue
        side_name, kind = joint.split("_")
        parts = (part if isinstance(part, int) else _limb(part, SIDES[side_name]) for part in near[kind])
        shown.append(frozenset(parts))
    return tuple(shown)


SHOWING_PARTS = showing_parts()


@dataclass(frozen=True)
class Figure:
    """A person at a place in the picture.

    Attributes:
        body: The posed body.
        style: Clothes and looks.
        origin: Pixel (x, y) of the pelvis.
        pixels_per_metre: Scale of the drawing.
    """

    body: Body
    style: Style
    origin: Polygon
    pixels_per_metre: float

    def pixel(self, point: Vector) -> Polygon:
        """Project a point given in metres from the pelvis."""
        return self.origin + point[:2] * self.pixels_per_metre

    def face_points(self) -> dict[str, Vector]:
        """Nose, eyes and ears in metres from the pelvis."""
        head, radius = self.body.points["head"], self.body.proportions.head
        # The skull is higher than it is wide.
        size = np.array([radius * 0.86, radius, radius * 0.9])
        return {name: head + self.body.head @ (np.array(offset) * size) for name, offset in _FACE.items()}

    def joints(self, joints: Sequence[str] = COCO17.joints) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Joints in pixels, K×2, and for each whether the body itself lets an annotator place it.

        Features of the face that the head hides (the nose from behind, the far ear from the side) are not annotated,
        as in COCO.
        """
        face = self.face_points()
        head = self.body.points["head"]
        top = head + self.body.head @ np.array([0, -self.body.proportions.head, 0])
        named = {**self.body.points, **face, "top_head": top}
        # Bodies of five points end where the limbs do that COCO knows.
        for side in SIDES:
            named |= {f"{side}_hand": named[f"{side}_wrist"], f"{side}_foot": named[f"{side}_ankle"]}
        positions, known = [], []
        for joint in joints:
            point = named[joint]
            positions.append(self.pixel(point))
            depth = (point - head)[2] / self.body.proportions.head
            known.append(joint not in face or bool(depth > (-0.3 if joint.endswith("ear") else 0.1)))
        return np.array(positions), np.array(known)

    def paint(self, canvas: Canvas, owner: int) -> None:
        """Draw the person and claim its pixels for `owner`."""
        brush = _Brush(self, canvas, owner)
        for _, draw in sorted(brush.layers(), key=lambda layer: layer[0]):
            draw()


Layer = tuple[float, Callable[[], None]]


class _Brush:
    """Draws the parts of one figure."""

    def __init__(self, figure: Figure, canvas: Canvas, owner: int) -> None:
        self.figure, self.canvas, self.owner = figure, canvas, owner
        self.style, self.body = figure.style, figure.body
        self.points = figure.body.points
        self.scale = figure.pixels_per_metre
        self.girth = figure.body.proportions.girth

    def layers(self) -> list[Layer]:
        """The parts with the depth by which they are sorted, the viewer at the largest."""
        p = self.points
        front = float(self.body.torso[2, 2])
        layers: list[Layer] = [
            (_depth(p["neck"], p["pelvis"]), self._torso),
            (float(p["neck"][2]) - 0.02, self._neck),
            (float(p["head"][2]) + 0.06, self._head),
        ]
        if self.style.long_hair and not self.style.cap:
            back = self.body.head[:, 2] * -0.09
            layers.append((float(p["head"][2] + back[2]) + 0.05, self._long_hair))
        if self.style.backpack:
            layers.append((_depth(p["neck"], p["pelvis"]) - 0.14 * front, self._backpack))
        for name, side in SIDES.items():
            # Sleeves lie over the torso when the body faces the viewer, and trousers under the shirt.
            arm = 0.04 * max(front, 0.3)
            joints = {joint: p[f"{name}_{joint}"] for joint in _SIDE_JOINTS}
            layers += [
                (_depth(joints["shoulder"], joints["elbow"]) + arm, self._painter(self._upper_arm, name, side)),
                (_depth(joints["elbow"], joints["hand"]) + arm + 0.01, self._painter(self._forearm, name, side)),
                (_depth(joints["hip"], joints["knee"]) - 0.06, self._painter(self._thigh, name, side)),
                (_depth(joints["knee"], joints["ankle"]) - 0.08, self._painter(self._shin, name, side)),
                (_depth(joints["ankle"], joints["toe"]) - 0.09, self._painter(self._foot, name, side)),
            ]
        return layers

    @staticmethod
    def _painter(draw: Callable[[str, int], None], name: str, side: int) -> Callable[[], None]:
        return lambda: draw(name, side)

    def _solid(self, outline: Polygon, colour: Colour, part: int) -> None:
        """Paint a part with a dark rim, and light from the upper left."""
        middle = outline.mean(axis=0)
        span = float(np.ptp(outline, axis=0).min())
        rim = max(0.8, 0.012 * self.scale)
        size = np.maximum(np.linalg.norm(outline - middle, axis=1, keepdims=True), 1e-6)
        inner = outline - (outline - middle) / size * np.minimum(rim, 0.3 * size)
        self.canvas.fill(outline, shade(colour, 0.6))
        self.canvas.fill(inner, shade(colour, 0.86))
        light = middle + (inner - middle) * 0.72 - 0.07 * span
        self.canvas.fill(light, colour)
        self.canvas.claim(outline, self.owner, part)

    def _segment(self, start: Vector, end: Vector, radii: tuple[float, float], colour: Colour, part: int) -> None:
        pixel = self.figure.pixel
        outline = capsule(
            pixel(start), pixel(end), radii[0] * self.girth * self.scale, radii[1] * self.girth * self.scale
        )
        self._solid(outline, colour, part)

    def _torso(self) -> None:
        p, pixel, scale = self.points, self.figure.pixel, self.scale
        torso, girth = self.body.torso, self.girth
        forward, left = torso[:, 2], torso[:, 0]
        chest, pelvis = p["chest"], p["pelvis"]
        blobs = [
            (p["left_shoulder"], 0.062),
            (p["right_shoulder"], 0.062),
            (p["left_hip"], 0.085),
            (p["right_hip"], 0.085),
            (chest + forward * 0.055 * girth, 0.075),
            (chest - forward * 0.04 * girth, 0.075),
            (pelvis + forward * 0.02, 0.1),
        ]
        outline = hull(np.concatenate([circle(pixel(at), r * girth * scale) for at, r in blobs]))
        shirt, accent = self.style.shirt, self.style.accent
        self._solid(outline, shirt, _TORSO)
        facing = float(forward[2])

        def on_front(right: float, down: float) -> Polygon:
            # `down` runs from the neck (0) to the pelvis (1); the point lies on the chest's surface.
            at = p["neck"] + (pelvis - p["neck"]) * down - left * right + forward * 0.1 * girth
            return pixel(at)

        if self.style.pattern == "stripes":
            edges = np.linspace(0.18, 0.95, 8)
            bands = [
                np.array([on_front(-0.6, a), on_front(0.6, a), on_front(0.6, b), on_front(-0.6, b)])
                for a, b in zip(edges[::2], edges[1::2], strict=True)
            ]
            self.canvas.pattern(outline, bands, accent)
        elif self.style.pattern == "block":
            corners = np.array([on_front(-0.6, 0.5), on_front(0.6, 0.5), on_front(0.6, 1.6), on_front(-0.6, 1.6)])
            self.canvas.pattern(outline, [corners], accent)
        if facing > 0.25:
            self._front_of_shirt(outline, on_front, accent)

    def _front_of_shirt(self, outline: Polygon, on_front: Callable[[float, float], Polygon], accent: Colour) -> None:
        collar = np.array([on_front(-0.075, -0.04), on_front(0.075, -0.04), on_front(0.0, 0.2)])
        self.canvas.pattern(outline, [collar], self.style.skin)
        if self.style.pattern == "jacket":
            zip_line = np.array([on_front(0.0, 0.15), on_front(0.0, 1.15)])
            self.canvas.line(zip_line, shade(self.style.shirt, 0.4), 0.02 * self.scale)
        elif self.style.pattern == "logo":
            # Worn over the heart: on the person's left.
            badge = circle(on_front(-0.085, 0.32), 0.035 * self.scale)
            self.canvas.pattern(outline, [badge], accent)
        if self.style.backpack:
            for side in (-1, 1):
                strap = np.array([on_front(0.11 * side, 0.0), on_front(0.12 * side, 0.5)])
                self.canvas.line(strap, shade(accent, 0.6), 0.035 * self.scale)

    def _backpack(self) -> None:
        back = self.body.torso[:, 2] * -0.15
        top, bottom = self.points["chest"] - self.body.torso[:, 1] * 0.08, self.points["pelvis"]
        self._segment(top + back, bottom * 0.7 + back, (0.13, 0.14), shade(self.style.accent, 0.8), _PACK)

    def _neck(self) -> None:
        skull = self.points["head"] + self.body.head[:, 1] * self.body.proportions.head * 0.5
        self._segment(self.points["neck"], skull, (0.055, 0.055), shade(self.style.skin, 0.9), _NECK)

    def _upper_arm(self, name: str, side: int) -> None:
        shoulder, elbow = self.points[f"{name}_shoulder"], self.points[f"{name}_elbow"]
        part = _limb("upper_arm", side)
        self._segment(shoulder, elbow, (0.05, 0.042), self.style.skin, part)
        covered = min(self.style.sleeve, 1.0)
        if covered > 0:
            end = shoulder + (elbow - shoulder) * covered
            self._segment(shoulder, end, (0.06, 0.052), self.style.shirt, part)

    def _forearm(self, name: str, side: int) -> None:
        elbow, wrist = self.points[f"{name}_elbow"], self.points[f"{name}_wrist"]
        hand = self.points[f"{name}_hand"]
        part = _limb("forearm", side)
        self._segment(wrist, hand, (0.032, 0.04), self.style.skin, part)
        self._segment(elbow, wrist, (0.042, 0.033), self.style.skin, part)
        covered = self.style.sleeve - 1.0
        if covered > 0:
            end = elbow + (wrist - elbow) * covered
            self._segment(elbow, end, (0.052, 0.042), shade(self.style.shirt, 0.95), part)

    def _thigh(self, name: str, side: int) -> None:
        hip, knee = self.points[f"{name}_hip"], self.points[f"{name}_knee"]
        part = _limb("thigh", side)
        self._segment(hip, knee, (0.08, 0.06), self.style.skin, part)
        end = hip + (knee - hip) * min(self.style.trouser_length, 1.0)
        self._segment(hip, end, (0.09, 0.07), self.style.trousers, part)

    def _shin(self, name: str, side: int) -> None:
        knee, ankle = self.points[f"{name}_knee"], self.points[f"{name}_ankle"]
        part = _limb("shin", side)
        self._segment(knee, ankle, (0.058, 0.038), self.style.skin, part)
        covered = self.style.trouser_length - 1.0
        if covered > 0:
            end = knee + (ankle - knee) * covered
            self._segment(knee, end, (0.067, 0.054), shade(self.style.trousers, 0.96), part)

    def _foot(self, name: str, side: int) -> None:
        ankle, toe = self.points[f"{name}_ankle"], self.points[f"{name}_toe"]
        heel = ankle + np.array([0, 0.03, 0])
        self._segment(heel, toe, (0.045, 0.04), self.style.shoes, _limb("foot", side))

    def _long_hair(self) -> None:
        radius = self.body.proportions.head
        back, down = self.body.head[:, 2] * -0.4 * radius, self.body.head[:, 1] * radius
        crown = self.points["head"] + back
        factor = radius / self.girth
        self._segment(crown, crown + down * 1.25, (factor * 0.95, factor * 0.7), self.style.hair, _HAIR_PART)

    def _head(self) -> None:
        """Shade the skull as an ellipsoid, so that hair and face turn with it."""
        head, radius = self.body.head, self.body.proportions.head * self.scale
        centre = self.figure.pixel(self.points["head"])
        self._ears(near=False)
        left, top = int(np.floor(centre[0] - radius * 1.2)), int(np.floor(centre[1] - radius * 1.2))
        side = int(np.ceil(radius * 2.4)) + 2
        grid = np.arange(side)
        size = np.array([0.86, 1.0, 0.9])
        # Columns of `turn` take a point of the unit sphere to the picture; its inverse gives the head's own axes.
        x, y = np.meshgrid((grid + left - centre[0]) / radius, (grid + top - centre[1]) / radius)
        shape = head @ np.diag(1 / size**2) @ head.T
        # Depth z of the surface: the larger root of q(x, y, z) = 1.
        a, b = shape[2, 2], shape[0, 2] * x + shape[1, 2] * y
        c = shape[0, 0] * x * x + 2 * shape[0, 1] * x * y + shape[1, 1] * y * y - 1
        inside = b * b - a * c
        z = (-b + np.sqrt(np.maximum(inside, 0))) / a
        own = np.einsum("ij,jhw->ihw", (head / size).T, np.stack([x, y, z]))
        soft = 1.2 / radius
        alpha = np.clip(inside / (2 * soft) + 0.5, 0, 1)
        hair_line = own[1] * -0.72 + own[2] * -0.69
        hair = np.clip((hair_line - self.style.fringe) / (2 * soft) + 0.5, 0, 1)
        light = np.clip(0.98 - 0.16 * x - 0.12 * y, 0.6, 1.1) * np.where(inside < 0.13, 0.72, 1.0)
        skin, fur = np.array(self.style.skin), np.array(self.style.hair)
        if self.style.cap:
            hair, fur = np.clip((-own[1] - 0.35) / (2 * soft) + 0.5, 0, 1), np.array(self.style.accent)
        colour = (skin * (1 - hair[..., None]) + fur * hair[..., None]) * light[..., None]
        self.canvas.blend(left, top, np.clip(colour, 0, 255).astype(np.float32), alpha.astype(np.float32))
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.canvas.claim(self._silhouette(centre, radius, shape, angle), self.owner, _HEAD)
        self._ears(near=True)
        self._face(radius)

    @staticmethod
    def _silhouette(centre: Polygon, radius: float, shape: Vector, angle: Vector) -> Polygon:
        # Eliminating z from the quadric leaves the ellipse that the head covers.
        flat = shape[:2, :2] - np.outer(shape[:2, 2], shape[:2, 2]) / shape[2, 2]
        direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        reach = 1 / np.sqrt(np.einsum("ni,ij,nj->n", direction, flat, direction))
        outline: Polygon = centre + radius * direction * reach[:, None]
        return outline

    def _ears(self, *, near: bool) -> None:
        face, head = self.figure.face_points(), self.points["head"]
        for name in ("left_ear", "right_ear"):
            if ((face[name] - head)[2] > 0.25 * self.body.proportions.head) != near:
                continue
            outline = circle(self.figure.pixel(face[name]), 0.2 * self.body.proportions.head * self.scale)
            self._solid(outline, shade(self.style.skin, 0.92), _HEAD)

    def _face(self, radius: float) -> None:
        face, head = self.figure.face_points(), self.points["head"]
        visible = {name: (point - head)[2] > 0.1 * self.body.proportions.head for name, point in face.items()}
        eyes = [name for name in ("left_eye", "right_eye") if visible[name]]
        for name in eyes:
            at = self.figure.pixel(face[name])
            self.canvas.fill(circle(at, 0.14 * radius), (240, 240, 240))
            self.canvas.fill(circle(at, 0.1 * radius), (34, 28, 26))
            brow = at - self.body.head[:2, 1] * 0.27 * radius
            across = self.body.head[:2, 0] * 0.17 * radius
            self.canvas.line(np.array([brow - across, brow + across]), shade(self.style.hair, 0.8), 0.09 * radius)
            if self.style.glasses:
                ring = circle(at, 0.24 * radius)
                self.canvas.line(np.concatenate([ring, ring[:1]]), (20, 20, 20), 0.07 * radius)
        if visible["nose"]:
            bridge = self.figure.pixel(
                head + (face["nose"] - head) * 0.85 - self.body.head[:, 1] * radius / self.scale * 0.2
            )
            tip = self.figure.pixel(face["nose"])
            self.canvas.fill(capsule(bridge, tip, 0.05 * radius, 0.12 * radius), shade(self.style.skin, 0.72))
            size = self.body.proportions.head
            mouth = [
                self.figure.pixel(head + self.body.head @ (np.array([across, 0.56, 0.72]) * size))
                for across in (-0.26, 0.0, 0.26)
            ]
            smile = np.array([[0, 0], [0, 0.06 * radius], [0, 0]])
            self.canvas.line(np.array(mouth) + smile, (60, 50, 140), 0.1 * radius)


_SIDE_JOINTS = ("shoulder", "elbow", "hand", "hip", "knee", "ankle", "toe")


def _depth(first: Vector, second: Vector) -> float:
    return float(first[2] + second[2]) / 2
