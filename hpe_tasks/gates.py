"""The gate: whether a quantized model may be published, and why.

The exported file is what the gate judges, since that is what will be served; FP32 and QuantSim only say how much it
lost. A number that is missing, out of range, or made under another protocol fails its check: no evidence, no release.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from hpe_tasks.config import GateLimits
from hpe_tasks.results import ExportedModel, GateCheck, GateDecision, Measurement, ProtocolFingerprint

_RUNTIME_NAMES = {"fp32": "FP32", "quantsim": "QuantSim", "onnxruntime": "ONNX"}

# Differences of decimal fractions are off by some 1e-17: 0.62 - 0.60 must still be within a limit of 0.02.
_TOLERANCE = 1e-9

_BYTES_PER_MB = 1e6

_NAMED_FLOAT_OPERATORS = 3


class QuantizedMeasurements(Protocol):
    """QuantSim and the exported file, measured alike: `QuantizedEvaluation` or `QuantizedPckhEvaluation`."""

    @property
    def quantsim(self) -> Measurement:
        """Of the simulation."""

    @property
    def onnx(self) -> Measurement:
        """Of the exported file."""


@dataclass(frozen=True)
class _Metric:
    """An accuracy and its limits; `name` is also its unit, `best` the largest value that it can have."""

    name: str
    protocol: str
    best: float
    lowest: float
    largest_drop: float
    largest_gap: float


def decide(
    limits: GateLimits, fp32: Measurement, quantized: QuantizedMeasurements, exported: ExportedModel
) -> GateDecision:
    """Judge the exported file against the limits.

    A model that was measured on a subset may pass; the reasons then say how many images it was measured on.

    Args:
        limits: What the model must reach.
        fp32: Accuracy of the model before quantization.
        quantized: Accuracy of QuantSim and of the exported file.
        exported: The exported file, its size and its placement audit.

    Returns:
        One check for each limit of the metric and of the file; passed when all of them passed.
    """
    metric = _metric(limits)
    checks = (
        _lowest(metric, quantized.onnx),
        _drop(metric, fp32, quantized.onnx),
        _quantsim_gap(metric, quantized.quantsim, quantized.onnx),
        _int8_mac_share(limits.min_int8_mac_share, exported),
        _size_mb(limits.max_size_mb, exported),
    )
    return GateDecision(passed=all(check.passed for check in checks), checks=checks)


def fingerprint_differences(a: ProtocolFingerprint, b: ProtocolFingerprint) -> tuple[str, ...]:
    """The fields in which two protocols differ, each as "field (one value / other value)"; long values shortened."""
    return tuple(
        f"{field} ({_short(getattr(a, field))} / {_short(getattr(b, field))})"
        for field in ProtocolFingerprint.model_fields
        if getattr(a, field) != getattr(b, field)
    )


def _metric(limits: GateLimits) -> _Metric:
    if limits.metric == "pckh":
        return _Metric("PCKh", "mpii_pckh", 100.0, limits.min_pckh, limits.max_pckh_drop, limits.max_quantsim_pckh_gap)
    return _Metric("AP", "coco_oks_ap", 1.0, limits.min_ap, limits.max_ap_drop, limits.max_quantsim_gap)


def _lowest(metric: _Metric, onnx: Measurement) -> GateCheck:
    problem = _unusable(metric, onnx, "onnxruntime")
    return _check(
        f"min_{metric.name.lower()}",
        "Accuracy of the exported file",
        subject=f"ONNX {metric.name}",
        observed=onnx.accuracy,
        limit=metric.lowest,
        comparison="at_least",
        unit=metric.name,
        problem=problem,
        note=_subset_note(onnx),
    )


def _drop(metric: _Metric, fp32: Measurement, onnx: Measurement) -> GateCheck:
    problem = (
        _unusable(metric, fp32, "fp32") or _unusable(metric, onnx, "onnxruntime") or _incomparable(metric, fp32, onnx)
    )
    return _check(
        f"max_{metric.name.lower()}_drop",
        "Accuracy lost by quantization",
        subject=f"{metric.name} drop from FP32 to ONNX",
        observed=None if problem else _accuracy(fp32) - _accuracy(onnx),
        limit=metric.largest_drop,
        comparison="at_most",
        unit=metric.name,
        problem=problem,
        note=_subset_note(onnx),
    )


def _quantsim_gap(metric: _Metric, quantsim: Measurement, onnx: Measurement) -> GateCheck:
    problem = (
        _unusable(metric, quantsim, "quantsim")
        or _unusable(metric, onnx, "onnxruntime")
        or _incomparable(metric, quantsim, onnx)
    )
    return _check(
        "quantsim_gap",
        "Agreement of simulation and exported file",
        subject=f"{metric.name} gap between QuantSim and ONNX",
        observed=None if problem else abs(_accuracy(quantsim) - _accuracy(onnx)),
        limit=metric.largest_gap,
        comparison="at_most",
        unit=metric.name,
        problem=problem,
        note=_subset_note(onnx),
    )


def _int8_mac_share(limit: float, exported: ExportedModel) -> GateCheck:
    placement = exported.placement
    problem = ""
    if placement.total_macs <= 0:
        problem = "The int8 share is unknown: the audit found no convolution or matrix product in the exported file"
    slow = placement.float_operators[:_NAMED_FLOAT_OPERATORS]
    too_low = placement.int8_mac_share < limit - _TOLERANCE
    return _check(
        "int8_mac_share",
        "Arithmetic that runs in int8",
        subject="Int8 share of multiply-accumulates",
        observed=placement.int8_mac_share,
        limit=limit,
        comparison="at_least",
        unit="share",
        problem=problem,
        note=f"still float: {', '.join(slow)}" if too_low and slow else "",
    )


def _size_mb(limit: float, exported: ExportedModel) -> GateCheck:
    size = exported.model.size_bytes
    return _check(
        "size_mb",
        "Size of the exported file",
        subject="Size",
        observed=size / _BYTES_PER_MB,
        limit=limit,
        comparison="at_most",
        unit="MB",
        problem="" if size > 0 else f"The size of the exported file is unknown: {size} bytes are recorded",
        note="",
    )


def _check(
    name: str,
    title: str,
    *,
    subject: str,
    observed: float | None,
    limit: float,
    comparison: Literal["at_least", "at_most"],
    unit: str,
    problem: str,
    note: str,
) -> GateCheck:
    """Compare one number with its limit, or fail with the `problem` that keeps it from being compared."""
    if problem or observed is None:
        passed, observed, reason = False, None, problem
    else:
        if comparison == "at_least":
            passed = observed >= limit - _TOLERANCE
            relation = "at least" if passed else "below"
        else:
            passed = observed <= limit + _TOLERANCE
            relation = "at most" if passed else "above"
        shown, shown_limit = _format(observed, limit, unit)
        reason = f"{subject} {shown} is {relation} {shown_limit}" + (f" ({note})" if note else "")
    return GateCheck(
        name=name,
        title=title,
        passed=passed,
        observed=observed,
        limit=limit,
        comparison=comparison,
        unit=unit,
        reason=reason,
    )


def _unusable(metric: _Metric, report: Measurement, runtime: str) -> str:
    """Why the report's accuracy cannot be used; empty when it can."""
    name = f"{_RUNTIME_NAMES[runtime]} {metric.name}"
    if report.runtime != runtime:
        return f"{name} is missing: the report in its place was measured with {_RUNTIME_NAMES[report.runtime]}"
    if report.fingerprint.metric != metric.protocol:
        return f"{name} is missing: the report in its place holds {report.fingerprint.metric}, not {metric.protocol}"
    accuracy = report.accuracy
    if accuracy is None or math.isnan(accuracy):
        return f"{name} is missing: {report.fingerprint.num_persons} persons were measured"
    if not 0 <= accuracy <= metric.best:
        return f"{name} {accuracy:.3f} is not a number in [0, {metric.best:g}]"
    return ""


def _incomparable(metric: _Metric, a: Measurement, b: Measurement) -> str:
    differences = fingerprint_differences(a.fingerprint, b.fingerprint)
    if not differences:
        return ""
    names = f"{_RUNTIME_NAMES[a.runtime]} and {_RUNTIME_NAMES[b.runtime]}"
    return f"{names} {metric.name} cannot be compared: they were measured with a different {', '.join(differences)}"


def _accuracy(report: Measurement) -> float:
    """The accuracy of a report that `_unusable` found nothing wrong with."""
    return report.accuracy if report.accuracy is not None else math.nan


def _subset_note(report: Measurement) -> str:
    fingerprint = report.fingerprint
    if not fingerprint.subset:
        return ""
    return f"measured on a subset: {fingerprint.num_images} images, {fingerprint.num_persons} persons"


def _format(observed: float, limit: float, unit: str) -> tuple[str, str]:
    """Both numbers as text, with as many decimals as it takes to tell them apart."""
    factor, suffix, first = {"AP": (1, "", 3), "PCKh": (1, " %", 1), "share": (100, " %", 1), "MB": (1, " MB", 1)}[unit]
    a, b = observed * factor, limit * factor
    digits = first
    while digits < first + 6 and f"{a:.{digits}f}" == f"{b:.{digits}f}" and abs(a - b) > _TOLERANCE * factor:
        digits += 1
    return f"{a:.{digits}f}{suffix}", f"{b:.{digits}f}{suffix}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
