"""What onnxruntime raises."""

from __future__ import annotations

from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

REFUSALS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
"""What onnxruntime raises for a file or an input that it does not run: its errors share no base but Exception."""
