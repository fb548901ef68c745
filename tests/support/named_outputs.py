"""Networks of the tests whose maps are one array, beside networks that name their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Network = Callable[[np.ndarray], np.ndarray]

_PAFS = 38


def joined(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The maps of all outputs in one array, in their order."""
    return np.concatenate(list(outputs.values()), axis=1)


def heatmap_network(network: Network) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The array that the network gives as the output of codec `heatmap`."""
    return lambda images: {"heatmaps": network(images)}


def paf_network(network: Network) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The array that the network gives as the outputs of codec `paf`."""

    def named(images: np.ndarray) -> dict[str, np.ndarray]:
        maps = network(images)
        return {"pafs": maps[:, :_PAFS], "heatmaps": maps[:, _PAFS:]}

    return named
