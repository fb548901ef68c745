"""Roles of the files that a version's figures can be counted again from."""

from __future__ import annotations

LARGEST_BYTES = 64 * 1024**2
"""A larger file is not published: the predictions for COCO's validation split have about four million bytes."""


def predictions_role(runtime: str) -> str:
    """The poses that were found: JSON, as `EvaluationReport.predictions` says."""
    return f"predictions-{runtime}"


def table_role(runtime: str) -> str:
    """What became of each image, as `hpe_tasks.metrics.image_tables` reads it."""
    return f"table-{runtime}"


def compared_role(runtime: str) -> str:
    """The same of all images that were compared, where they were more than those of the first look."""
    return f"compared-{runtime}"
