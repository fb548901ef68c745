"""What two measurements of one network have in common, wherever and however fast each was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def figures_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """All of a stored `EvaluationReport` but what tells the time and the place."""
    told = {key: value for key, value in report.items() if key != "images_per_second"}
    for name in ("predictions", "image_table", "crop_joints"):
        told[name] = told[name]["sha256"]
    return told
