"""Looks and clothes of the drawn people."""

from __future__ import annotations

from dataclasses import dataclass

from hpe_tasks.data.sample.canvas import Colour, hsv
from hpe_tasks.data.sample.pose import Rng

_SKIN: tuple[Colour, ...] = (
    (178, 206, 240),
    (150, 186, 232),
    (122, 160, 214),
    (96, 132, 190),
    (68, 98, 156),
    (48, 70, 116),
    (36, 52, 86),
)
_HAIR: tuple[Colour, ...] = (
    (24, 24, 28),
    (30, 42, 62),
    (40, 66, 104),
    (70, 126, 178),
    (110, 176, 220),
    (36, 62, 148),
    (168, 168, 172),
)


@dataclass(frozen=True)
class Style:
    """What a person wears and looks like."""

    skin: Colour
    hair: Colour
    shirt: Colour
    accent: Colour
    trousers: Colour
    shoes: Colour
    sleeve: float
    """Share of the arm that is covered: 0.5 is a T-shirt, 2 a long sleeve."""
    trouser_length: float
    """Share of the leg that is covered: 1 ends at the knee, 2 at the ankle."""
    pattern: str
    fringe: float
    """How far the hair reaches, as the cosine where it ends; 0.9 is nearly bald."""
    long_hair: bool
    cap: bool
    glasses: bool
    backpack: bool

    @classmethod
    def draw(cls, rng: Rng) -> Style:
        """Draw clothes and looks."""
        shirt = hsv(rng.random(), rng.uniform(0.1, 0.95), rng.uniform(0.3, 1.0))
        trousers = (
            hsv(rng.uniform(0.55, 0.68), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.6))
            if rng.random() < 0.45
            else hsv(rng.random(), rng.uniform(0.0, 0.7), rng.uniform(0.12, 0.85))
        )
        return cls(
            skin=_SKIN[int(rng.integers(len(_SKIN)))],
            hair=_HAIR[int(rng.integers(len(_HAIR)))],
            shirt=shirt,
            accent=hsv(rng.random(), rng.uniform(0.0, 0.9), rng.uniform(0.1, 1.0)),
            trousers=trousers,
            shoes=hsv(rng.random(), rng.uniform(0.0, 0.6), rng.uniform(0.1, 0.9)),
            sleeve=float(rng.choice((0.0, 0.5, 0.6, 0.9, 1.95, 1.95))),
            trouser_length=float(rng.choice((0.55, 0.95, 1.9, 1.9, 1.9))),
            pattern=str(rng.choice(("plain", "plain", "stripes", "block", "logo", "jacket"))),
            fringe=float(rng.uniform(-0.3, 0.2)) if rng.random() < 0.92 else 0.9,
            long_hair=bool(rng.random() < 0.33),
            cap=bool(rng.random() < 0.12),
            glasses=bool(rng.random() < 0.12),
            backpack=bool(rng.random() < 0.12),
        )
