"""How often drift is seen where there is none, and how surely where there is."""

from __future__ import annotations

import bisect
import math

import numpy as np
import pytest
from scipy import stats

from hpe_tasks.metrics.drift import (
    ALPHA,
    MAX_PSI,
    compare_histograms,
    holm,
    homogeneity_p_value,
    pooled,
    stability_index,
)
from hpe_tasks.records.watch import Histogram

EDGES = tuple(round(index / 100, 2) for index in range(1, 100))
NAMES = ("people", "top_score", "mean_score", "brightness", "contrast", "warmth", "megapixels", "aspect")


def histogram(values: np.ndarray) -> Histogram:
    bins = np.searchsorted(EDGES, values, side="right")
    return Histogram(edges=EDGES, counts=tuple(np.bincount(bins, minlength=len(EDGES) + 1).tolist()))


def drawn(rng: np.random.Generator, images: int, shift: float = 0.0) -> dict[str, Histogram]:
    """Statistics of very different shapes: smooth, peaked, of few values, and one that is always the same."""
    peaked = np.clip(rng.normal(0.62 + shift, 0.03, images), 0, 1)
    few = rng.choice([0.1, 0.2, 0.9], images, p=[0.7, 0.25, 0.05])
    same = np.full(images, 0.5)
    kinds = [
        rng.beta(2, 5, images),
        peaked,
        few,
        same,
        rng.uniform(size=images),
        rng.beta(0.5, 0.5, images),
        few,
        peaked,
    ]
    return {name: histogram(values) for name, values in zip(NAMES, kinds, strict=True)}


@pytest.mark.parametrize(
    ("golden_images", "images"),
    [
        pytest.param(1000, 1000, id="equal", marks=pytest.mark.long),
        pytest.param(5000, 200, id="few now", marks=pytest.mark.long),
        pytest.param(200, 200, id="fewest"),
    ],
)
def test_without_drift_alarms_are_as_rare_as_stated(golden_images: int, images: int) -> None:
    """Looks at one distribution; fixed seed. Both conditions hold together far more seldom than the test alone."""
    rng = np.random.default_rng(20261122)
    looks, alarms, refused = 400, 0, 0
    for _ in range(looks):
        found = compare_histograms(drawn(rng, golden_images), drawn(rng, images))
        alarms += any(one.drifted for one in found)
        refused += any(one.p_value < ALPHA for one in found)
    # The test alone: within the error rate that was asked for, four standard deviations of the simulation included.
    assert refused <= looks * ALPHA + 4 * math.sqrt(looks * ALPHA)
    assert alarms <= 1


def test_a_million_requests_do_not_fire_on_nothing() -> None:
    rng = np.random.default_rng(1)
    golden, now = rng.normal(0.500, 0.1, 10**6), rng.normal(0.505, 0.1, 10**6)
    (one,) = compare_histograms({"brightness": histogram(golden)}, {"brightness": histogram(now)})
    assert one.p_value < 1e-100
    assert one.psi < 0.01
    assert not one.drifted


@pytest.mark.parametrize(
    ("shift", "least", "most"),
    [
        pytest.param(0.0, 0, 1, id="none"),
        pytest.param(0.02, 25, 30, id="two thirds of a deviation"),
        pytest.param(0.03, 30, 30, id="one deviation"),
    ],
)
def test_a_shift_of_a_statistic_is_seen(shift: float, least: int, most: int) -> None:
    rng = np.random.default_rng(7)
    seen = 0
    for _ in range(30):
        found = {one.name: one for one in compare_histograms(drawn(rng, 1000), drawn(rng, 300, shift))}
        seen += found["top_score"].drifted
        assert not found["people"].drifted
    assert least <= seen <= most


def test_the_figures_are_those_of_the_textbook() -> None:
    table = np.array([[50, 30, 20], [20, 30, 50]])
    assert homogeneity_p_value(table) == pytest.approx(stats.chi2.sf(4 * 15**2 / 35, 2))
    assert homogeneity_p_value(table) == pytest.approx(stats.chi2_contingency(table).pvalue)
    # ln 2.5 × 0.3 twice, but for the half that is added to each bin.
    assert stability_index(table) == pytest.approx(2 * 0.3 * math.log(2.5), rel=0.04)
    assert stability_index(np.array([[10, 90], [100, 900]])) == pytest.approx(0, abs=1e-3)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("golden", "now", "bins"),
    [
        pytest.param([0.5] * 300, [0.5] * 300, 1, id="always the same"),
        pytest.param([0.5] * 300, [0.2] * 300, 2, id="moved as a whole"),
        pytest.param(np.linspace(0, 1, 1000), np.linspace(0, 1, 500), 10, id="smooth"),
    ],
)
def test_bins_are_joined_by_what_both_hold(golden: list[float], now: list[float], bins: int) -> None:
    table = pooled(histogram(np.array(golden)), histogram(np.array(now)))
    assert table.shape == (2, bins)
    assert table.sum(axis=1).tolist() == [len(golden), len(now)]
    (one,) = compare_histograms({"s": histogram(np.array(golden))}, {"s": histogram(np.array(now))})
    assert one.drifted == (bins == 2)
    assert one.drifted == (one.psi > MAX_PSI)


def test_too_few_values_are_not_judged() -> None:
    many, few = histogram(np.full(500, 0.5)), histogram(np.full(199, 0.1))
    (one,) = compare_histograms({"s": many}, {"s": few})
    assert (one.psi, one.p_value, one.drifted) == (None, None, False)


def test_a_value_on_an_edge_belongs_above_it() -> None:
    assert bisect.bisect_right(EDGES, 0.5) == int(np.searchsorted(EDGES, 0.5, side="right")) == 50
