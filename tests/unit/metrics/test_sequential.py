"""Bounds of repeated looks against published ones, and against looks at random walks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from hpe_tasks.metrics.sequential import nominal_errors, spent


def test_a_single_look_spends_everything() -> None:
    assert nominal_errors(0.025, [1.0]) == pytest.approx((0.025,))


def test_the_bounds_are_those_of_lan_and_demets() -> None:
    """Five equal looks, two-sided 0.05, Pocock's type, as the authors' program has them."""
    bounds = norm.isf(nominal_errors(0.025, [0.2, 0.4, 0.6, 0.8, 1.0]))
    assert bounds == pytest.approx([2.438, 2.427, 2.410, 2.397, 2.386], abs=2e-3)


@pytest.mark.parametrize("fractions", [(0.1, 1.0), (0.5, 0.6, 1.0), (0.05, 0.3, 0.7, 1.0)], ids=str)
def test_all_looks_together_err_as_often_as_was_allowed(fractions: tuple[float, ...]) -> None:
    """What has no advantage is taken for better at any look: sums of equal steps, at the times of the looks."""
    rng = np.random.default_rng(4)
    times = np.array(fractions)
    steps = rng.normal(size=(400_000, len(times))) * np.sqrt(np.diff(times, prepend=0.0))
    z = steps.cumsum(axis=1) / np.sqrt(times)
    bounds = np.asarray(norm.isf(nominal_errors(0.05, fractions)))
    assert (z >= bounds).any(axis=1).mean() == pytest.approx(0.05, abs=0.002)
    assert (z[:, 0] >= bounds[0]).mean() == pytest.approx(spent(0.05, fractions[0]), abs=0.002)


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.0, 1.0), (0.9, 1.1), (0.6, 0.4)], ids=str)
def test_looks_that_do_not_grow_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="do not rise"):
        nominal_errors(0.05, fractions)


def test_an_error_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not in"):
        nominal_errors(0.0, [1.0])
