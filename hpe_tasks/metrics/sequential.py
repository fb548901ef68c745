"""Looking more than once: how sure each look must be, so that all of them together err no more often than one would.

Whoever looks at a growing sample until it pleases will be pleased in the end. Here the error that one look may make is
spent in parts, more with every image, and what a look may spend decides how wide its interval is. Number and times of
the looks need not be known beforehand, and looks that come to nothing cost nothing later. Sources: Lan and DeMets,
"Discrete sequential boundaries for clinical trials", Biometrika 70 (1983), whose spending function of Pocock's type
this is; Armitage, McPherson and Rowe, "Repeated significance tests on accumulating data", JRSS A 132 (1969), for the
integration; the same boundaries are in Jennison and Turnbull, "Group Sequential Methods" (2000), chapters 7 and 19.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Path = tuple[Floats, Floats]
"""Sums that have not crossed a bound yet, and their density."""

_GRID = 2_001
_REACH = 8.0
"""Standard deviations below which no path of a sum is followed."""


def spent(error: float, fraction: float) -> float:
    """The part of an error that may be spent once this fraction of all images has been seen.

    Pocock's type, alpha·ln(1 + (e - 1)·t), spends early: most runs are decided by their first images, and the tails
    that it asks for are within what some thousand resamples can tell. That of O'Brien and Fleming's type would ask for
    tails of one in a million there.
    """
    return error * math.log1p((math.e - 1) * min(max(fraction, 0.0), 1.0))


def nominal_errors(error: float, fractions: Sequence[float]) -> tuple[float, ...]:
    """The error, one-sided, that each look at a growing sample may make by itself.

    Args:
        error: Of all looks together, one-sided.
        fractions: Of all images, seen at each look: rising, the last at most 1.

    Raises:
        ValueError: The fractions do not rise, or leave (0, 1]; the error is not in (0, 0.5].
    """
    from scipy.stats import norm

    if not 0 < error <= 0.5:
        raise ValueError(f"an error of {error} is not in (0, 0.5]")
    if any(b <= a for a, b in zip((0.0, *fractions), fractions, strict=False)) or (fractions and fractions[-1] > 1):
        raise ValueError(f"the fractions {tuple(fractions)} do not rise within (0, 1]")
    errors: list[float] = []
    path: Path | None = None
    before = 0.0
    for fraction in fractions:
        allowed = spent(error, fraction) - spent(error, before)
        if path is None:
            bound = float(norm.isf(allowed))
            sums = _sums(fraction, bound)
            density = norm.pdf(sums, scale=math.sqrt(fraction))
        else:
            step = math.sqrt(fraction - before)
            bound = _bound(path, step, fraction, allowed)
            sums = _sums(fraction, bound)
            density = _integral(path, norm.pdf((sums[:, None] - path[0]) / step) / step)
        errors.append(float(norm.sf(bound)))
        path, before = (sums, density), fraction
    return tuple(errors)


def _sums(fraction: float, bound: float) -> Floats:
    """Values of the sum that has not crossed its bound."""
    deviation = math.sqrt(fraction)
    return np.linspace(-_REACH * deviation, bound * deviation, _GRID)


def _integral(path: Path, values: Floats) -> Floats:
    """Over the sums of the look before, of values in their last axis."""
    sums, density = path
    return np.asarray(np.trapezoid(values * density, sums, axis=-1))


def _bound(path: Path, step: float, fraction: float, allowed: float) -> float:
    """The bound that what has not stopped yet crosses now with the allowed probability."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    def excess(bound: float) -> float:
        crossing = norm.sf((bound * math.sqrt(fraction) - path[0]) / step)
        return float(_integral(path, crossing)) - allowed

    return float(brentq(excess, -_REACH, _REACH))
