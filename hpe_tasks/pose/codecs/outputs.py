"""What each codec reads from a network."""

from __future__ import annotations

from typing import Literal

Codec = Literal["heatmap", "paf"]

OUTPUT_NAMES: dict[Codec, tuple[str, ...]] = {"heatmap": ("heatmaps",), "paf": ("pafs", "heatmaps")}
"""Outputs of an exported network by codec, in the order in which their channels are joined."""
