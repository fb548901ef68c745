"""Whether two samples come from one distribution, and how far apart they are.

Two questions, because a large sample finds a difference in anything, and a small one a large difference by chance: the
chi-square test of homogeneity says whether it is chance (Agresti, Categorical Data Analysis, section 3.2), and the
population stability index whether it is large (Siddiqi, Credit Risk Scorecards, 2006: below 0.1 none, above 0.25 a
major shift). Several statistics share one error rate by Holm's method (Scandinavian Journal of Statistics 6, 1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hpe_tasks.records.watch import DriftedStatistic, Histogram

ALPHA = 0.01
"""Chance of a false alarm when one golden period is compared with one sample, over all statistics together."""

MAX_PSI = 0.25
"""Siddiqi's bound of a major shift."""

MIN_IMAGES = 200
"""Of either sample: with ten bins the index's own scatter is then below 0.1, 9 × (1/200 + 1/200) on average."""

_BINS = 10
"""Of about equal mass, as usual for the index."""


def compare_histograms(
    golden: Mapping[str, Histogram],
    now: Mapping[str, Histogram],
    *,
    min_images: int = MIN_IMAGES,
    max_psi: float = MAX_PSI,
    alpha: float = ALPHA,
) -> tuple[DriftedStatistic, ...]:
    """Compare the statistics that both have with the same edges.

    A statistic of which either has fewer than `min_images` values is listed and not judged: without people in them,
    images have no scores.
    """
    names = [name for name, one in golden.items() if name in now and one.edges == now[name].edges]
    tables = {name: pooled(golden[name], now[name]) for name in names}
    judged = [name for name in names if min(golden[name].total, now[name].total) >= min_images]
    corrected = dict(zip(judged, holm([homogeneity_p_value(tables[name]) for name in judged]), strict=True))
    found = []
    for name in names:
        p_value = corrected.get(name)
        psi = None if p_value is None else stability_index(tables[name])
        drifted = psi is not None and p_value is not None and psi > max_psi and p_value < alpha
        found.append(
            DriftedStatistic(name=name, golden=golden[name], now=now[name], psi=psi, p_value=p_value, drifted=drifted)
        )
    return tuple(found)


def pooled(golden: Histogram, now: Histogram) -> npt.NDArray[np.int64]:
    """Both histograms (2×B) with neighbouring bins joined to at most ten of about equal mass of the two together.

    Each of the two weighs the same, so that what a small sample holds beyond a large one gets bins of its own.
    """
    counts = np.array([golden.counts, now.counts], dtype=np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    mass, columns, begin = 0.0, [], 0
    for index, share in enumerate(shares.mean(axis=0)):
        mass += float(share)
        if mass >= 1 / _BINS - 1e-9:
            columns.append(counts[:, begin : index + 1].sum(axis=1))
            mass, begin = 0.0, index + 1
    rest = counts[:, begin:].sum(axis=1)
    if rest.sum():
        if columns:
            columns[-1] = columns[-1] + rest
        else:
            columns.append(rest)
    return np.stack(columns, axis=1) if columns else np.zeros((2, 0), np.int64)


def homogeneity_p_value(table: npt.NDArray[np.int64]) -> float:
    """Chi-square test that both rows of a 2×B table of counts come from one distribution; 1 with a single bin."""
    from scipy.special import chdtrc

    if table.shape[1] < 2:
        return 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    return float(chdtrc(table.shape[1] - 1, ((table - expected) ** 2 / expected).sum()))


def stability_index(table: npt.NDArray[np.int64]) -> float:
    """The population stability index of a 2×B table of counts: Σ (p − q) ln(p / q), 0 for equal shares.

    Half a value is added to each bin, so that one that is empty in one row leaves it finite.
    """
    if table.shape[1] < 2:
        return 0.0
    shares = (table + 0.5) / (table + 0.5).sum(axis=1, keepdims=True)
    golden, now = shares
    return math.fsum((now - golden) * np.log(now / golden))


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected by Holm's step-down method: each may be compared with the error rate of all together."""
    corrected, least, count = [0.0] * len(p_values), 0.0, len(p_values)
    for rank, index in enumerate(sorted(range(count), key=p_values.__getitem__)):
        least = max(least, min(1.0, (count - rank) * p_values[index]))
        corrected[index] = least
    return corrected
