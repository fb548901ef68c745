"""How much of a signal is left beside noise."""

from __future__ import annotations

import numpy as np


def decibels(signal: np.ndarray, noisy: np.ndarray) -> float:
    """Ratio of the signal to what was added to it; infinite where nothing was."""
    noise = float(((signal - noisy) ** 2).sum())
    return float(10 * np.log10((signal**2).sum() / noise)) if noise else float("inf")
