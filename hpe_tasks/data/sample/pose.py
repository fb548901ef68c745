"""Poses of the drawn people: joint angles by kind of pose, and the joints that follow from them.

Lengths are metres. The camera's axes are x to the right, y down and z towards the viewer; the projection is
orthographic. A body at yaw 0 faces the viewer, so its left hand is on the right side of the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Rng = np.random.Generator

LEFT, RIGHT = 1, -1
SIDES = {"left": LEFT, "right": RIGHT}


@dataclass(frozen=True)
class Proportions:
    """Lengths of one body in metres."""

    hip: float
    shoulder: float
    spine: float
    neck: float
    head: float
    upper_arm: float
    forearm: float
    thigh: float
    shin: float
    girth: float
    """Factor on the thickness of torso and limbs."""

    @classmethod
    def draw(cls, rng: Rng) -> Proportions:
        """Draw an adult, or now and then a child with a larger head and shorter limbs."""
        limb = rng.uniform(0.93, 1.07)
        head = rng.uniform(0.125, 0.145)
        if rng.random() < 0.15:
            limb, head = limb * 0.85, head * 1.15
        return cls(
            hip=rng.uniform(0.095, 0.115),
            shoulder=rng.uniform(0.165, 0.205),
            spine=rng.uniform(0.46, 0.53),
            neck=rng.uniform(0.07, 0.1),
            head=head,
            upper_arm=0.28 * limb,
            forearm=0.255 * limb,
            thigh=0.43 * limb,
            shin=0.42 * limb,
            girth=rng.uniform(0.85, 1.25),
        )


@dataclass(frozen=True)
class LimbAngles:
    """Direction of one limb segment in degrees: away from the body's middle, and forward."""

    out: float
    forward: float

    def direction(self, side: int) -> Vector:
        """Unit vector in the body's axes; (0, 0) hangs straight down."""
        out, forward = math.radians(self.out), math.radians(self.forward)
        return np.array(
            [side * math.sin(out), math.cos(out) * math.cos(forward), math.cos(out) * math.sin(forward)],
            dtype=np.float64,
        )


@dataclass(frozen=True)
class Side:
    """Angles of the arm and the leg of one side."""

    upper_arm: LimbAngles
    forearm: LimbAngles
    thigh: LimbAngles
    shin: LimbAngles


@dataclass(frozen=True)
class Posture:
    """One pose, in degrees.

    Attributes:
        kind: Name of the pose.
        lean: Torso bent forward.
        roll: Torso tilted to the side.
        yaw: Turn of the whole body; 0 faces the viewer, 90 faces the right border, 180 turns the back.
        head_yaw: Turn of the head against the body.
        head_tilt: Tilt of the head to the side.
        left: Angles of the left arm and leg.
        right: Angles of the right arm and leg.
    """

    kind: str
    lean: float
    roll: float
    yaw: float
    head_yaw: float
    head_tilt: float
    left: Side
    right: Side


def _hanging(rng: Rng) -> tuple[LimbAngles, LimbAngles]:
    out, forward = rng.uniform(5, 22), rng.normal(0, 8)
    return LimbAngles(out, forward), LimbAngles(out + rng.uniform(-16, 6), forward + rng.uniform(5, 35))


def _on_hip(rng: Rng) -> tuple[LimbAngles, LimbAngles]:
    return (
        LimbAngles(rng.uniform(40, 56), rng.uniform(-18, 0)),
        LimbAngles(rng.uniform(-58, -40), rng.uniform(10, 28)),
    )


def _holding(rng: Rng) -> tuple[LimbAngles, LimbAngles]:
    return (
        LimbAngles(rng.uniform(6, 24), rng.uniform(0, 25)),
        LimbAngles(rng.uniform(-60, -20), rng.uniform(50, 110)),
    )


def _raised(rng: Rng) -> tuple[LimbAngles, LimbAngles]:
    out = rng.uniform(105, 168)
    return LimbAngles(out, rng.uniform(-15, 15)), LimbAngles(out + rng.uniform(-25, 50), rng.uniform(-20, 20))


def _waving(rng: Rng) -> tuple[LimbAngles, LimbAngles]:
    return (
        LimbAngles(rng.uniform(60, 105), rng.uniform(-10, 20)),
        LimbAngles(rng.uniform(140, 200), rng.uniform(-20, 10)),
    )


def _spread(rng: Rng) -> tuple[LimbAngles, LimbAngles]:
    out = rng.uniform(65, 120)
    return LimbAngles(out, rng.uniform(-15, 15)), LimbAngles(out + rng.uniform(-25, 30), rng.uniform(-10, 20))


def _pointing(rng: Rng) -> tuple[LimbAngles, LimbAngles]:
    out, forward = rng.uniform(5, 40), rng.uniform(45, 95)
    return LimbAngles(out, forward), LimbAngles(out + rng.uniform(-15, 10), forward + rng.uniform(0, 25))


_FREE_ARMS: tuple[Callable[[Rng], tuple[LimbAngles, LimbAngles]], ...] = (
    _hanging,
    _hanging,
    _on_hip,
    _holding,
    _raised,
    _waving,
    _spread,
    _pointing,
)

Arms = tuple[LimbAngles, LimbAngles]
Legs = tuple[LimbAngles, LimbAngles]


def _straight_leg(rng: Rng, spread: float = 4.0) -> Legs:
    out, forward = spread + rng.uniform(-2, 4), rng.normal(0, 4)
    return LimbAngles(out, forward), LimbAngles(out + rng.uniform(-4, 2), forward - rng.uniform(0, 8))


def _free_arm(rng: Rng) -> Arms:
    return _FREE_ARMS[int(rng.integers(len(_FREE_ARMS)))](rng)


def _standing(rng: Rng) -> tuple[float, Arms, Arms, Legs, Legs]:
    spread = rng.uniform(2, 8)
    return rng.normal(0, 4), _free_arm(rng), _free_arm(rng), _straight_leg(rng, spread), _straight_leg(rng, spread)


def _cheering(rng: Rng) -> tuple[float, Arms, Arms, Legs, Legs]:
    spread = rng.uniform(2, 10)
    return rng.normal(0, 4), _raised(rng), _raised(rng), _straight_leg(rng, spread), _straight_leg(rng, spread)


def _jumping(rng: Rng) -> tuple[float, Arms, Arms, Legs, Legs]:
    spread = rng.uniform(14, 32)
    return rng.normal(0, 5), _spread(rng), _spread(rng), _straight_leg(rng, spread), _straight_leg(rng, spread)


def _walking(rng: Rng) -> tuple[float, Arms, Arms, Legs, Legs]:
    stride, swing, bend = rng.uniform(16, 40), rng.uniform(12, 40), rng.uniform(8, 60)
    out = rng.uniform(0, 5)
    ahead: Legs = (LimbAngles(out, stride), LimbAngles(out, stride - rng.uniform(2, 18)))
    behind: Legs = (LimbAngles(out, -stride * 0.8), LimbAngles(out, -stride * 0.8 - rng.uniform(8, 45)))
    arm_out = rng.uniform(4, 16)
    arm_ahead: Arms = (LimbAngles(arm_out, swing), LimbAngles(arm_out - 5, swing + bend))
    arm_behind: Arms = (LimbAngles(arm_out, -swing), LimbAngles(arm_out - 5, -swing + bend))
    lean = rng.uniform(0, 14)
    if rng.random() < 0.5:
        return lean, arm_behind, arm_ahead, ahead, behind
    return lean, arm_ahead, arm_behind, behind, ahead


def _sitting(rng: Rng) -> tuple[float, Arms, Arms, Legs, Legs]:
    def leg() -> Legs:
        out = rng.uniform(4, 22)
        return LimbAngles(out, rng.uniform(66, 88)), LimbAngles(out * rng.uniform(-0.3, 0.6), rng.uniform(-18, 12))

    def arm() -> Arms:
        if rng.random() < 0.3:
            return _free_arm(rng)
        return (
            LimbAngles(rng.uniform(6, 24), rng.uniform(5, 32)),
            LimbAngles(rng.uniform(-15, 10), rng.uniform(40, 75)),
        )

    return rng.uniform(-8, 12), arm(), arm(), leg(), leg()


def _bending(rng: Rng) -> tuple[float, Arms, Arms, Legs, Legs]:
    def arm() -> Arms:
        forward = rng.uniform(0, 55)
        return LimbAngles(rng.uniform(3, 18), forward), LimbAngles(rng.uniform(-8, 10), forward + rng.uniform(0, 25))

    return rng.uniform(30, 72), arm(), arm(), _straight_leg(rng, 6), _straight_leg(rng, 6)


def _crouching(rng: Rng) -> tuple[float, Arms, Arms, Legs, Legs]:
    def leg() -> Legs:
        out = rng.uniform(10, 32)
        return LimbAngles(out, rng.uniform(60, 92)), LimbAngles(out * 0.4 - 6, rng.uniform(-55, -30))

    def arm() -> Arms:
        forward = rng.uniform(10, 60)
        return LimbAngles(rng.uniform(8, 25), forward), LimbAngles(rng.uniform(-20, 5), forward + rng.uniform(10, 45))

    return rng.uniform(5, 32), arm(), arm(), leg(), leg()


def _kicking(rng: Rng) -> tuple[float, Arms, Arms, Legs, Legs]:
    forward = rng.uniform(25, 75)
    lifted: Legs = (
        LimbAngles(rng.uniform(0, 25), forward),
        LimbAngles(rng.uniform(-3, 12), forward - rng.uniform(10, 80)),
    )
    standing = _straight_leg(rng, 2)
    left, right = (lifted, standing) if rng.random() < 0.5 else (standing, lifted)
    return rng.normal(0, 6), _free_arm(rng), _free_arm(rng), left, right


_KINDS: dict[str, tuple[float, Callable[[Rng], tuple[float, Arms, Arms, Legs, Legs]]]] = {
    "standing": (0.30, _standing),
    "walking": (0.20, _walking),
    "cheering": (0.08, _cheering),
    "jumping": (0.09, _jumping),
    "sitting": (0.12, _sitting),
    "bending": (0.08, _bending),
    "crouching": (0.05, _crouching),
    "kicking": (0.08, _kicking),
}


def draw_posture(rng: Rng) -> Posture:
    """Draw a pose: mostly facing the viewer, sometimes from the side or from behind."""
    names = tuple(_KINDS)
    kind = names[int(rng.choice(len(names), p=[_KINDS[name][0] for name in names]))]
    lean, left_arm, right_arm, left_leg, right_leg = _KINDS[kind][1](rng)
    turn = rng.random()
    if kind == "bending":
        # From the front a bent torso is a blob: seen from the side it is a pose.
        yaw = rng.choice((-1, 1)) * rng.uniform(35, 90)
    elif turn < 0.76:
        yaw = float(np.clip(rng.normal(0, 28), -60, 60))
    elif turn < 0.88:
        yaw = rng.choice((-1, 1)) * rng.uniform(55, 95)
    else:
        yaw = 180 + rng.normal(0, 22)
    return Posture(
        kind=kind,
        lean=lean,
        roll=rng.normal(0, 4),
        yaw=float(yaw),
        head_yaw=float(np.clip(rng.normal(0, 16), -40, 40)),
        head_tilt=rng.normal(0, 6),
        left=Side(*left_arm, *left_leg),
        right=Side(*right_arm, *right_leg),
    )


def turn_about_x(degrees: float) -> Vector:
    """Rotation that moves up (−y) towards the viewer (+z), as bending forward does."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]], dtype=np.float64)


def turn_about_y(degrees: float) -> Vector:
    """Rotation that moves forward (+z) towards the right border (+x)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=np.float64)


def turn_about_z(degrees: float) -> Vector:
    """Rotation in the picture plane that moves the right border (+x) down (+y)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=np.float64)


@dataclass(frozen=True)
class Body:
    """A posed body in the camera's axes, its pelvis at the origin.

    Attributes:
        points: Joints by name, in metres.
        torso: Rotation of the torso; its columns are the body's left, down and forward.
        head: Rotation of the head, likewise.
        proportions: The lengths that it was made with.
    """

    points: dict[str, Vector]
    torso: Vector
    head: Vector
    proportions: Proportions


def pose_body(proportions: Proportions, posture: Posture, camera_pitch: float) -> Body:
    """Place every joint by forward kinematics.

    Args:
        proportions: Lengths of the body.
        posture: Angles of the body.
        camera_pitch: How far the camera looks down, in degrees.
    """
    p = proportions
    view = turn_about_x(camera_pitch) @ turn_about_y(posture.yaw)
    trunk = turn_about_x(posture.lean) @ turn_about_z(posture.roll)
    # Looking down at one's hands: half of the torso's lean is taken back by the neck.
    skull = turn_about_y(posture.head_yaw) @ turn_about_x(posture.lean * 0.5) @ turn_about_z(posture.head_tilt)
    local: dict[str, Vector] = {"pelvis": np.zeros(3)}
    local["chest"] = trunk @ np.array([0, -p.spine * 0.62, 0])
    local["neck"] = trunk @ np.array([0, -p.spine, 0])
    local["head"] = local["neck"] + skull @ np.array([0, -p.neck - p.head * 1.0, 0.02])
    for name, side in SIDES.items():
        angles = posture.left if side == LEFT else posture.right
        local[f"{name}_shoulder"] = trunk @ np.array([side * p.shoulder, -p.spine * 0.93, 0])
        local[f"{name}_elbow"] = local[f"{name}_shoulder"] + p.upper_arm * angles.upper_arm.direction(side)
        forearm = angles.forearm.direction(side)
        local[f"{name}_wrist"] = local[f"{name}_elbow"] + p.forearm * forearm
        local[f"{name}_hand"] = local[f"{name}_wrist"] + 0.075 * forearm
        local[f"{name}_hip"] = np.array([side * p.hip, 0.02, 0])
        local[f"{name}_knee"] = local[f"{name}_hip"] + p.thigh * angles.thigh.direction(side)
        local[f"{name}_ankle"] = local[f"{name}_knee"] + p.shin * angles.shin.direction(side)
        sole = turn_about_x(-0.4 * min(angles.shin.forward, 0)) @ np.array([side * 0.035, 0.045, 0.13])
        local[f"{name}_toe"] = local[f"{name}_ankle"] + sole
    points = {name: view @ point for name, point in local.items()}
    return Body(points=points, torso=view @ trunk, head=view @ skull, proportions=p)
