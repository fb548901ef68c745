"""The gate: whether a quantized model may be published, and why.

The exported file is what the gate judges, since that is what will be served; FP32 and QuantSim only say how much it
lost. A number that is missing, out of range, or made under another protocol fails its check: no evidence, no release.
"""

from __future__ import annotations

import math
from typing import Literal

from hpe_tasks.config import GateLimits
from hpe_tasks.results import (
    EvaluationReport,
    ExportedModel,
    GateCheck,
    GateDecision,
    ProtocolFingerprint,
    QuantizedEvaluation,
)

_RUNTIME_NAMES = {"fp32": "FP32", "quantsim": "QuantSim", "onnxruntime": "ONNX"}

# Differences of decimal fractions are off by some 1e-17: 0.62 - 0.60 must still be within a limit of 0.02.
_TOLERANCE = 1e-9

_BYTES_PER_MB = 1e6

_NAMED_FLOAT_OPERATORS = 3


def decide(
    limits: GateLimits, fp32: EvaluationReport, quantized: QuantizedEvaluation, exported: ExportedModel
) -> GateDecision:
    """Judge the exported file against the limits.

    A model that was measured on a subset may pass; the reasons then say how many images it was measured on.

    Args:
        limits: What the model must reach.
        fp32: Accuracy of the model before quantization.
        quantized: Accuracy of QuantSim and of the exported file.
        exported: The exported file, its size and its placement audit.

    Returns:
        One check for each limit, in the order of `GateLimits`; passed when all of them passed.
    """
    checks = (
        _min_ap(limits.min_ap, quantized.onnx),
        _max_ap_drop(limits.max_ap_drop, fp32, quantized.onnx),
        _quantsim_gap(limits.max_quantsim_gap, quantized.quantsim, quantized.onnx),
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


def _min_ap(limit: float, onnx: EvaluationReport) -> GateCheck:
    problem = _unusable(onnx, "onnxruntime")
    return _check(
        "min_ap",
        "Accuracy of the exported file",
        subject="ONNX AP",
        observed=onnx.stats.ap,
        limit=limit,
        comparison="at_least",
        unit="AP",
        problem=problem,
        note=_subset_note(onnx),
    )


def _max_ap_drop(limit: float, fp32: EvaluationReport, onnx: EvaluationReport) -> GateCheck:
    problem = _unusable(fp32, "fp32") or _unusable(onnx, "onnxruntime") or _incomparable(fp32, onnx)
    return _check(
        "max_ap_drop",
        "Accuracy lost by quantization",
        subject="AP drop from FP32 to ONNX",
        observed=None if problem else _ap(fp32) - _ap(onnx),
        limit=limit,
        comparison="at_most",
        unit="AP",
        problem=problem,
        note=_subset_note(onnx),
    )


def _quantsim_gap(limit: float, quantsim: EvaluationReport, onnx: EvaluationReport) -> GateCheck:
    problem = _unusable(quantsim, "quantsim") or _unusable(onnx, "onnxruntime") or _incomparable(quantsim, onnx)
    return _check(
        "quantsim_gap",
        "Agreement of simulation and exported file",
        subject="AP gap between QuantSim and ONNX",
        observed=None if problem else abs(_ap(quantsim) - _ap(onnx)),
        limit=limit,
        comparison="at_most",
        unit="AP",
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


def _unusable(report: EvaluationReport, runtime: str) -> str:
    """Why the report's AP cannot be used; empty when it can."""
    name = _RUNTIME_NAMES[runtime]
    if report.runtime != runtime:
        return f"{name} AP is missing: the report in its place was measured with {_RUNTIME_NAMES[report.runtime]}"
    ap = report.stats.ap
    if ap is None or math.isnan(ap):
        return f"{name} AP is missing: {report.fingerprint.num_persons} persons were measured"
    if not 0 <= ap <= 1:
        return f"{name} AP {ap:.3f} is not a number in [0, 1]"
    return ""


def _incomparable(a: EvaluationReport, b: EvaluationReport) -> str:
    differences = fingerprint_differences(a.fingerprint, b.fingerprint)
    if not differences:
        return ""
    names = f"{_RUNTIME_NAMES[a.runtime]} and {_RUNTIME_NAMES[b.runtime]}"
    return f"{names} AP cannot be compared: they were measured with a different {', '.join(differences)}"


def _ap(report: EvaluationReport) -> float:
    """The AP of a report that `_unusable` found nothing wrong with."""
    return report.stats.ap if report.stats.ap is not None else math.nan


def _subset_note(report: EvaluationReport) -> str:
    fingerprint = report.fingerprint
    if not fingerprint.subset:
        return ""
    return f"measured on a subset: {fingerprint.num_images} images, {fingerprint.num_persons} persons"


def _format(observed: float, limit: float, unit: str) -> tuple[str, str]:
    """Both numbers as text, with as many decimals as it takes to tell them apart."""
    factor, suffix, first = {"AP": (1, "", 3), "share": (100, " %", 1), "MB": (1, " MB", 1)}[unit]
    a, b = observed * factor, limit * factor
    digits = first
    while digits < first + 6 and f"{a:.{digits}f}" == f"{b:.{digits}f}" and abs(a - b) > _TOLERANCE * factor:
        digits += 1
    return f"{a:.{digits}f}{suffix}", f"{b:.{digits}f}{suffix}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
