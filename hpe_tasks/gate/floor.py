"""The gate's floor, asked of the checkpoint before anything is quantized: a loss is all that quantization can add.

A check is a result, as the gate's decision is; what stops a run on it is `refuse_below_floor`.
"""

from __future__ import annotations

import math

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.datasets import GateMetric
from hpe_tasks.errors import BelowFloorError
from hpe_tasks.gate.accuracy import METRICS, TOLERANCE, Metric, accuracy_limits, metric_of, sample_text
from hpe_tasks.records.diagnosis import Diagnosis, Fp32Check
from hpe_tasks.records.evaluation import EvaluationReport

_STANDARD_ERRORS = 2.0


def check_floor(limits: GateLimits, fp32: EvaluationReport, key: GateMetric) -> Fp32Check:
    """Judge the checkpoint's accuracy by the floor of the exported file's.

    What was measured on a subset of the split passes as long as the whole split may still reach the floor; an accuracy
    of zero does not, because such a checkpoint has nothing that a quantization could lose. A floor of zero asks for
    nothing but a number.

    Args:
        limits: The gate's.
        fp32: Accuracy of the checkpoint.
        key: The figure that is judged: `dataset.gate_metric`.
    """
    metric, limit = METRICS[key], accuracy_limits(limits, key).minimum
    setting, observed = f"gate.min_{metric.key}", fp32.accuracy
    name, sample = f"FP32 {metric.name}", sample_text(fp32)
    if observed is None or math.isnan(observed) or metric_of(fp32.stats).key != metric.key:
        reason = f"{name} could not be measured on {sample}"
        return Fp32Check(passed=False, metric=metric.key, observed=None, limit=limit, reason=reason)
    decimals = metric.unit.decimals_between(observed, limit)
    shown = f"{name} {metric.unit.text(observed, decimals)}"
    asked = f"{metric.unit.text(limit, decimals)} ({setting})"
    if observed >= limit - TOLERANCE:
        passed, reason = True, f"{shown} is at least {asked}, on {sample}"
    elif observed > 0 and observed >= limit - _uncertainty(metric, limit, fp32):
        passed, reason = True, f"{shown} is below {asked}, but {sample} are a subset too small to tell"
    else:
        passed, reason = False, f"{shown} is below {asked}, on {sample}"
    return Fp32Check(passed=passed, metric=metric.key, observed=observed, limit=limit, reason=reason)


def _uncertainty(metric: Metric, limit: float, fp32: EvaluationReport) -> float:
    """How far below the floor a subset may lie by chance where the whole split reaches it; 0 for the whole split.

    Two standard errors of a share of persons: an AP, a mean of such shares, varies no more than that.
    """
    if not fp32.fingerprint.subset:
        return 0.0
    share = limit / metric.maximum
    return metric.maximum * _STANDARD_ERRORS * math.sqrt(share * (1 - share) / fp32.fingerprint.num_persons)


def refuse_below_floor(check: Fp32Check) -> None:
    """Raise BelowFloorError, with the diagnosis and what to set, where a check failed."""
    if not check.passed:
        found = "" if check.diagnosis is None else f" {diagnosis_text(check.diagnosis)}"
        raise BelowFloorError(f"{check.reason}.{found}", hint=next_step(check))


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """What a diagnosis says, in a sentence or two."""
    persons = f"{diagnosis.num_persons} persons in {diagnosis.num_images} images of {diagnosis.split}"
    return f"{diagnosis.summary} ({persons})."


def settings_text(settings: tuple[str, ...]) -> str:
    """Settings as arguments of `hpe run`, quoted for a shell."""
    return " ".join(f"--set '{one}'" if "[" in one else f"--set {one}" for one in settings)


def next_step(check: Fp32Check) -> str:
    """What the user does about a check that failed."""
    found = None if check.diagnosis is None else check.diagnosis.found
    metric = METRICS[check.metric]
    if check.observed is None:
        return "Check dataset.evaluation_split: no person in it has a labelled joint that counts."
    if found is None or not found.settings:
        return (
            "Nothing was quantized. Check that the checkpoint is the right one and belongs to model.architecture, "
            f"model.input_width and model.input_height, or ask for less: gate.min_{metric.key}."
        )
    again = f"Nothing was quantized. Start again with {settings_text(found.settings)}"
    if found.accuracy is not None and found.accuracy < check.limit - TOLERANCE:
        return (
            f"{again}; since {metric.text(found.accuracy)} is still below the floor, the checkpoint may have another "
            f"fault as well, or gate.min_{metric.key} asks for too much."
        )
    return f"{again}."
