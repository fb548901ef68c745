"""The gate: whether a quantized model may be published, and why.

The exported file is what the gate judges, since that is what will be served; FP32 and QuantSim only say how much it
lost. A number that is missing, out of range, or made under another protocol fails its check: no evidence, no release.
"""

from __future__ import annotations

import math
from typing import Literal

from hpe_tasks.config.run import GateLimits, Processors
from hpe_tasks.gate.accuracy import (
    FEW_PERSONS,
    METRICS,
    TOLERANCE,
    UNITS,
    Metric,
    accuracy_limits,
    few_persons_text,
    metric_of,
    unreadable_text,
)
from hpe_tasks.records import (
    EvaluationReport,
    ExportedModel,
    GateCheck,
    GateDecision,
    KernelAgreement,
    LatencyComparison,
    ProtocolFingerprint,
    QuantizedEvaluation,
)

_NEEDED_PROOFS: dict[Processors, tuple[str, ...]] = {
    "any": ("x86-64", "arm64"),
    "x86_64": ("x86-64",),
    "arm64": ("arm64",),
    "x86_64_vnni": (),
}
"""What a destination needs of `KernelProof.families`."""

_RUNTIME_NAMES = {"fp32": "FP32", "quantsim": "QuantSim", "onnxruntime": "ONNX"}

_BYTES_PER_MB = 1e6

_NAMED_FLOAT_OPERATORS = 3


def decide(
    limits: GateLimits,
    fp32: EvaluationReport,
    quantized: QuantizedEvaluation,
    exported: ExportedModel,
    processors: Processors = "any",
    *,
    min_persons: int = 1,
) -> GateDecision:
    """Judge the exported file against the limits.

    A model that was measured on a subset may pass; the reasons then say how many images it was measured on. On fewer
    than `min_persons` it does not: whatever the figure, it is no evidence.

    Args:
        limits: What the model must reach.
        fp32: Accuracy of the model before quantization.
        quantized: Accuracy of QuantSim and of the exported file, and what the int8 kernels made of the file.
        exported: The exported file, its size, its placement audit, and what was proved of its kernels.
        processors: Where the file may be served, which decides what must be proved.
        min_persons: Fewest persons that the figures must be measured on: `dataset.min_persons`.

    Returns:
        One check for each limit, in the order of `GateLimits`; passed when all of them passed.
    """
    metric, accuracy = METRICS[limits.metric], accuracy_limits(limits)
    checks = (
        _on_enough_persons(_minimum(metric, accuracy.minimum, quantized.onnx), quantized.onnx, min_persons),
        _drop(metric, accuracy.drop, fp32, quantized.onnx),
        _quantsim_gap(metric, accuracy.quantsim_gap, quantized.quantsim, quantized.onnx),
        _int8_mac_share(limits.min_int8_mac_share, exported),
        _kernel_proof(processors, exported),
        _kernel_sqnr(limits.min_kernel_sqnr_db, quantized.kernels),
        _size_mb(limits.max_size_mb, exported),
        # Limits that are off leave no check: the version of a model that is not judged by its speed says nothing of it.
        *(() if limits.min_speedup is None else (_speedup(limits.min_speedup, quantized.latency),)),
    )
    return GateDecision(passed=all(check.passed for check in checks), checks=checks)


def tells_speed(limit: float, latency: LatencyComparison | None) -> bool:
    """Whether the file's speed is known, and its noise leaves no doubt on which side of the limit it is."""
    if latency is None:
        return False
    judged = latency.one_thread
    return judged.ratio_low >= limit or judged.ratio_high < limit


def fingerprint_differences(a: ProtocolFingerprint, b: ProtocolFingerprint) -> tuple[str, ...]:
    """The fields in which two protocols differ, each as "field (one value / other value)"; long values shortened."""
    return tuple(
        f"{field} ({_short(getattr(a, field))} / {_short(getattr(b, field))})"
        for field in ProtocolFingerprint.model_fields
        if getattr(a, field) != getattr(b, field)
    )


def _minimum(metric: Metric, limit: float, onnx: EvaluationReport) -> GateCheck:
    return _check(
        f"min_{metric.key}",
        "Accuracy of the exported file",
        subject=f"ONNX {metric.name}",
        observed=onnx.accuracy,
        limit=limit,
        comparison="at_least",
        unit=metric.name,
        problem=_unusable(metric, onnx, "onnxruntime"),
        note=_sample_note(onnx),
    )


def _on_enough_persons(check: GateCheck, onnx: EvaluationReport, min_persons: int) -> GateCheck:
    """The check, failed where its figure stands on too few persons; a check of its own would change every version."""
    few = few_persons_text(onnx, min_persons)
    if not few or check.observed is None:
        return check
    reason = few if check.passed else f"{check.reason}; besides, {few[0].lower()}{few[1:]}"
    return check.model_copy(update={"passed": False, "reason": reason})


def _drop(metric: Metric, limit: float, fp32: EvaluationReport, onnx: EvaluationReport) -> GateCheck:
    problem = (
        _unusable(metric, fp32, "fp32") or _unusable(metric, onnx, "onnxruntime") or _incomparable(metric, fp32, onnx)
    )
    return _check(
        f"max_{metric.key}_drop",
        "Accuracy lost by quantization",
        subject=f"{metric.name} drop from FP32 to ONNX",
        observed=None if problem else _accuracy(fp32) - _accuracy(onnx),
        limit=limit,
        comparison="at_most",
        unit=metric.name,
        problem=problem,
        note=_sample_note(onnx),
    )


def _quantsim_gap(metric: Metric, limit: float, quantsim: EvaluationReport, onnx: EvaluationReport) -> GateCheck:
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
        limit=limit,
        comparison="at_most",
        unit=metric.name,
        problem=problem,
        note=_sample_note(onnx),
    )


def _int8_mac_share(limit: float, exported: ExportedModel) -> GateCheck:
    placement = exported.placement
    problem = ""
    if placement.total_macs <= 0:
        problem = "The int8 share is unknown: the audit found no convolution or matrix product in the exported file"
    slow = placement.float_operators[:_NAMED_FLOAT_OPERATORS]
    too_low = placement.int8_mac_share < limit - TOLERANCE
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


def _kernel_proof(processors: Processors, exported: ExportedModel) -> GateCheck:
    proof = exported.proof
    needed = _NEEDED_PROOFS[processors]
    observed, problem = 0.0, ""
    if not needed:
        reason = "No proof is needed: the model is for x86-64 with VNNI only, whose kernels add in 32 bits"
    elif proof is None:
        problem = "Nothing is proved of the exported file's int8 kernels: run the step export_onnx again"
    elif proof.model_sha256 != exported.model.sha256:
        problem = "The proof is of another file than the exported one: run the step export_onnx again"
    else:
        families = {name: proof.families[name] for name in needed}
        observed = max(family.unproved_layers for family in families.values())
        named = " and ".join(needed)
        reason = f"No sum of {proof.channels:,} channels in {proof.layers} layers can leave its range on {named}"
        unproved = [f"on {name} {family.unproved[0]}" for name, family in families.items() if family.unproved]
        if observed:
            reason = f"Sums may leave their range in {observed:.0f} of {proof.layers} layers: {'; '.join(unproved)}"
    return GateCheck(
        name=f"kernel_proof_{processors}",
        title="Layers whose int8 sums could be clipped",
        passed=not problem and observed == 0,
        observed=None if problem else observed,
        limit=0,
        comparison="at_most",
        unit="layers",
        reason=problem or reason,
    )


def _kernel_sqnr(limit: float, kernels: KernelAgreement | None) -> GateCheck:
    name, title = "kernel_sqnr_db", "Agreement of int8 kernels with the unoptimized graph"
    if kernels is not None and kernels.sqnr_db is None:
        reason = f"The int8 kernels compute the same as the unoptimized graph on {kernels.num_images} inputs"
        return GateCheck(
            name=name,
            title=title,
            passed=True,
            observed=None,
            limit=limit,
            comparison="at_least",
            unit="dB",
            reason=reason,
        )
    observed, problem, note = None, "", ""
    if kernels is None:
        problem = "The signal-to-noise ratio of int8 kernels is unknown: they were not compared"
    elif (observed := kernels.sqnr_db) is not None and observed < limit - TOLERANCE:
        note = (
            f"in {kernels.layer}: sums of full 8-bit weights saturate on x86-64 without VNNI, see "
            f"recipe.saturation_free; this processor is {', '.join(kernels.cpu_features)}"
        )
    return _check(
        name,
        title,
        subject="Signal-to-noise ratio of int8 kernels",
        observed=observed,
        limit=limit,
        comparison="at_least",
        unit="dB",
        problem=problem,
        note=note,
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


def _speedup(limit: float, latency: LatencyComparison | None) -> GateCheck:
    """Judged with one thread: what a small Lambda function has, and least disturbed by what else a machine does."""
    name, title, subject = "min_speedup", "Speed against FP32", "Speed with one thread, against FP32,"
    if latency is not None and not tells_speed(limit, latency):
        judged, shown = latency.one_thread, UNITS["times"]
        return GateCheck(
            name=name,
            title=title,
            passed=False,
            observed=judged.ratio,
            limit=limit,
            comparison="at_least",
            unit="times",
            reason=f"{subject} is too noisy to tell: {shown.text(judged.ratio)}, 95 % interval "
            f"{shown.text(judged.ratio_low)} to {shown.text(judged.ratio_high)}, where at least {shown.text(limit)} "
            f"is asked",
        )
    return _check(
        name,
        title,
        subject=subject,
        observed=None if latency is None else latency.one_thread.ratio,
        limit=limit,
        comparison="at_least",
        unit="times",
        problem="The speed against FP32 is unknown: it was not measured" if latency is None else "",
        note="" if latency is None else f"± {100 * latency.one_thread.noise:.0f} % on {latency.processor}",
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
            passed = observed >= limit - TOLERANCE
            relation = "at least" if passed else "below"
        else:
            passed = observed <= limit + TOLERANCE
            relation = "at most" if passed else "above"
        shown = UNITS[unit]
        decimals = shown.decimals_between(observed, limit)
        reason = f"{subject} {shown.text(observed, decimals)} is {relation} {shown.text(limit, decimals)}"
        reason += f" ({note})" if note else ""
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


def _unusable(metric: Metric, report: EvaluationReport, runtime: str) -> str:
    """Why the report's figure cannot be used; empty when it can."""
    name = f"{_RUNTIME_NAMES[runtime]} {metric.name}"
    if report.runtime != runtime:
        return f"{name} is missing: the report in its place was measured with {_RUNTIME_NAMES[report.runtime]}"
    measured = metric_of(report.stats)
    if measured.key != metric.key:
        return f"{name} is missing: the report in its place holds {measured.name}, but gate.metric is {metric.key}"
    value = report.accuracy
    if value is None or math.isnan(value):
        return f"{name} is missing: {report.fingerprint.num_persons} persons were measured"
    if not 0 <= value <= metric.maximum:
        return f"{name} {metric.text(value)} is not a number in [0, {metric.maximum:g}]"
    return ""


def _incomparable(metric: Metric, a: EvaluationReport, b: EvaluationReport) -> str:
    names = f"{_RUNTIME_NAMES[a.runtime]} and {_RUNTIME_NAMES[b.runtime]} {metric.name} cannot be compared"
    differences = fingerprint_differences(a.fingerprint, b.fingerprint)
    if differences:
        return f"{names}: they were measured with a different {', '.join(differences)}"
    # An image that only one of them could read counts against the other alone.
    differing = {image.name for image in a.failed_images} ^ {image.name for image in b.failed_images}
    return f"{names}: only one of them could read {', '.join(sorted(differing)[:3])}" if differing else ""


def _accuracy(report: EvaluationReport) -> float:
    """The figure of a report that `_unusable` found nothing wrong with."""
    return report.accuracy if report.accuracy is not None else math.nan


def _sample_note(report: EvaluationReport) -> str:
    """What keeps the figure from speaking for the whole split: a subset, few persons, unreadable images."""
    protocol, notes = report.fingerprint, []
    if protocol.subset:
        notes.append(f"measured on a subset: {protocol.num_images} images, {protocol.num_persons} persons")
    elif protocol.num_persons < FEW_PERSONS:
        notes.append(f"{protocol.num_persons} persons")
    if report.failed_images:
        notes.append(unreadable_text(report))
    return "; ".join(notes)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
