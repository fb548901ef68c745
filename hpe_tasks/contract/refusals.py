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


def first_line(error: Exception) -> str:
    """What onnxruntime says, without what it may say of its own source code below that."""
    return str(error).partition("\n")[0]
