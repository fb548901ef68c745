"""What the report reads beside the records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReportFiles:
    """Files on this machine that the report reads; None for what is not at hand.

    Attributes:
        dataset_root: The data set's folder, in the layout of its kind.
        fp32_predictions: What the FP32 model found, as its evaluation has written it.
        onnx_predictions: What the exported file found.
        data_docs: One self-contained HTML page of Great Expectations.
        curves: Those of a training.
    """

    dataset_root: Path | None = None
    fp32_predictions: Path | None = None
    onnx_predictions: Path | None = None
    data_docs: Path | None = None
    curves: Path | None = None
