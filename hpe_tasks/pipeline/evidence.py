"""What a version was judged by, published beside it: its figures can be counted again by whoever reads the registry.

Predictions hold the numbers of images, and coordinates and scores of joints; tables hold which of them were right. No
pixel is in either, and nothing of the annotations but what was right and how many persons there were.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from hpe_tasks.errors import AccessError
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.comparison import PairedComparison
from hpe_tasks.records.evaluation import EvaluationReport
from hpe_tasks.registry.evidence import LARGEST_BYTES, compared_role, predictions_role, table_role
from hpe_tasks.storage.workspace import Workspace

log = logging.getLogger(__name__)


def evidence_files(
    workspace: Workspace, reports: tuple[EvaluationReport, ...], comparison: PairedComparison | None
) -> dict[str, tuple[Artifact, Path]]:
    """The predictions and tables of measurements, by their roles; what is too large or gone is left out, and told."""
    found: dict[str, tuple[Artifact, Path]] = {}
    for role, artifact in _named(reports, comparison):
        if artifact.size_bytes > LARGEST_BYTES:
            log.warning(
                "%s has %s bytes, more than the %s that are published beside a version: `hpe verify` will not be able "
                "to count it again.", role, f"{artifact.size_bytes:,}", f"{LARGEST_BYTES:,}",
            )  # fmt: skip
            continue
        try:
            found[role] = artifact, workspace.local(artifact)
        except AccessError as error:
            log.warning("The version is published without %s: %s", role, error.message)
    return found


def _named(
    reports: tuple[EvaluationReport, ...], comparison: PairedComparison | None
) -> Iterator[tuple[str, Artifact]]:
    for report in reports:
        yield predictions_role(report.runtime), report.predictions
        if report.image_table is not None:
            yield table_role(report.runtime), report.image_table
    if comparison is not None:
        for runtime, table in zip(("fp32", "onnxruntime"), comparison.tables, strict=False):
            yield compared_role(runtime), table
