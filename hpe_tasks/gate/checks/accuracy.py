"""Checks of the exported file's accuracy: how good it is, and how much of it was lost on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from typing_extensions import override

from hpe_tasks.gate.accuracy import FEW_PERSONS, Metric, accuracy_limits, few_persons_text, metric_of, unreadable_text
from hpe_tasks.gate.checks.base import Advice, Evidence, Observation, Requirement, Situation
from hpe_tasks.gate.paired import images_to_decide, outcome_of
from hpe_tasks.records.comparison import PairedComparison, PartDifference
from hpe_tasks.records.evaluation import EvaluationReport, ProtocolFingerprint, Runtime
from hpe_tasks.records.gate import GateCheck

_RUNTIME_NAMES: dict[Runtime, str] = {"fp32": "FP32", "quantsim": "QuantSim", "onnxruntime": "ONNX"}

_USEFUL_SHARE = 0.05
"""A limit below this share of the metric's maximum would be none."""

_WHOLE_SPLIT = Advice("Measure on the whole split instead of a quick look.", "evaluation.num_images=null")


class MinimumAccuracy(Requirement):
    """The accuracy of the exported file, since that is what will be served."""

    title = "Accuracy of the exported file"
    comparison = "at_least"
    names = ("min_ap", "min_pckh")

    @override
    def name(self, evidence: Evidence) -> str:
        return f"min_{evidence.metric.key}"

    @override
    def subject(self, evidence: Evidence) -> str:
        return f"ONNX {evidence.metric.name}"

    @override
    def limit(self, evidence: Evidence) -> float:
        return evidence.accuracy.minimum

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        onnx = evidence.onnx
        return Observation(onnx.accuracy, _unusable(evidence.metric, onnx, "onnxruntime"), sample_note(onnx))

    @override
    def judge(self, evidence: Evidence) -> GateCheck | None:
        """Fails where its figure stands on too few persons: a check of its own would change every version."""
        check = super().judge(evidence)
        few = few_persons_text(evidence.onnx, evidence.min_persons)
        if check is None or not few or check.observed is None:
            return check
        reason = few if check.passed else f"{check.reason}; besides, {few[0].lower()}{few[1:]}"
        return check.model_copy(update={"passed": False, "reason": reason})

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        metric, limit = run.metric, accuracy_limits(run.config.gate, run.metric.key).minimum
        reached = run.onnx.accuracy if run.onnx else None
        if run.onnx is not None and reached is not None and reached >= limit:
            # High enough, on too few persons.
            yield _enough_persons(run.onnx)
            return
        before = run.fp32.accuracy if run.fp32 else None
        if before is None or before >= limit:
            yield from lose_less(run)
            return
        reached = before if reached is None else min(before, reached)
        step = 0.01 * metric.maximum
        possible = math.floor(reached / step) * step
        yield Advice(
            f"FP32 itself reaches only {metric.text(before)}: no recipe can lift int8 above {metric.text(limit)} for "
            "certain. Use a better checkpoint, check that mean, std and the joint order fit it, or ask for less.",
            f"gate.min_{metric.key}={possible:.3g}" if reached >= _USEFUL_SHARE * metric.maximum else "",
        )
        yield from _more_persons(run)


class AccuracyDrop(Requirement):
    """What quantization cost: FP32 only says how much was lost."""

    title = "Accuracy lost by quantization"
    comparison = "at_most"
    names = ("max_ap_drop", "max_pckh_drop")

    @override
    def name(self, evidence: Evidence) -> str:
        return f"max_{evidence.metric.key}_drop"

    @override
    def subject(self, evidence: Evidence) -> str:
        return f"{evidence.metric.name} drop from FP32 to ONNX"

    @override
    def limit(self, evidence: Evidence) -> float:
        return evidence.accuracy.drop

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        problem = not_comparable(evidence.metric, evidence.fp32, "fp32", evidence.onnx)
        if problem:
            return Observation(None, problem)
        whole = None if evidence.comparison is None else evidence.comparison.part("all")
        if whole is not None and evidence.comparison is not None:
            return observe_loss(evidence, evidence.comparison, whole, self.subject(evidence), limit)
        drop = _accuracy(evidence.fp32) - _accuracy(evidence.onnx)
        notes = (sample_note(evidence.onnx), "no interval: the measurements kept no tables of images")
        return Observation(drop, note="; ".join(filter(None, notes)) if evidence.comparison else notes[0])

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        return lose_less(run)


class QuantSimGap(Requirement):
    """Whether the simulation tells what the exported file does."""

    title = "Agreement of simulation and exported file"
    comparison = "at_most"
    names = ("quantsim_gap",)

    @override
    def subject(self, evidence: Evidence) -> str:
        return f"{evidence.metric.name} gap between QuantSim and ONNX"

    @override
    def limit(self, evidence: Evidence) -> float:
        return evidence.accuracy.quantsim_gap

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        quantsim, onnx = evidence.quantized.quantsim, evidence.onnx
        problem = not_comparable(evidence.metric, quantsim, "quantsim", onnx)
        gap = None if problem else abs(_accuracy(quantsim) - _accuracy(onnx))
        return Observation(gap, problem, sample_note(onnx))

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        yield from _more_persons(run)
        yield Advice(
            "Compare the CPU features under Provenance with those of the machine that will serve the model: without "
            "VNNI, int8 products can saturate.",
        )


CHECKS: tuple[Requirement, ...] = (MinimumAccuracy(), AccuracyDrop(), QuantSimGap())


def observe_loss(
    evidence: Evidence, comparison: PairedComparison, part: PartDifference, subject: str, limit: float
) -> Observation:
    """What a paired comparison says of a loss: kept, broken, or too little measured to tell."""
    judged = part.model_copy(update={"limit": limit})
    drop, unit, notes = judged.drop, evidence.metric.unit, [sample_note(evidence.onnx)]
    if drop is None or judged.low is None or judged.high is None or comparison.confidence is None:
        return Observation(drop, note="; ".join(filter(None, notes)))
    decimals = unit.decimals_between(drop, limit)
    interval = (-judged.high, -judged.low)
    sure = f"{100 * comparison.confidence:g} % interval {' to '.join(unit.text(end, decimals) for end in interval)}"
    if len(comparison.looks) > 1:
        looks = " and ".join(f"{look.num_images:,}" for look in comparison.looks)
        notes = [f"looked at after {looks} of {comparison.available_images:,} images"]
    found = Observation(drop, note="; ".join(filter(None, (sure, *notes))), interval=interval)
    if outcome_of(judged) != "inconclusive":
        return replace(found, probability=judged.probability)
    images = images_to_decide(comparison.num_images, judged)
    more = f"about {images:,} images would tell" if images else "no number of images would tell"
    other = "at most" if drop > limit else "more than"
    reason = (
        f"{subject} {unit.text(drop, decimals)} cannot be told from {other} {unit.text(limit, decimals)} on "
        f"{comparison.num_images:,} images ({sure}): {more}"
    )
    return replace(
        found, verdict=(False, reason), inconclusive=True, probability=judged.probability, images_to_decide=images
    )


def fingerprint_differences(a: ProtocolFingerprint, b: ProtocolFingerprint) -> tuple[str, ...]:
    """The fields in which two protocols differ, each as "field (one value / other value)"; long values shortened."""
    return tuple(
        f"{field} ({_short(getattr(a, field))} / {_short(getattr(b, field))})"
        for field in ProtocolFingerprint.model_fields
        if getattr(a, field) != getattr(b, field)
    )


def not_comparable(metric: Metric, before: EvaluationReport, runtime: Runtime, onnx: EvaluationReport) -> str:
    """Why two figures cannot be compared; empty where they can."""
    return (
        _unusable(metric, before, runtime)
        or _unusable(metric, onnx, "onnxruntime")
        or _incomparable(metric, before, onnx)
    )


def _unusable(metric: Metric, report: EvaluationReport, runtime: Runtime) -> str:
    """Why the report's figure cannot be used; empty when it can."""
    name = f"{_RUNTIME_NAMES[runtime]} {metric.name}"
    if report.runtime != runtime:
        return f"{name} is missing: the report in its place was measured with {_RUNTIME_NAMES[report.runtime]}"
    measured = metric_of(report.stats)
    if measured.key != metric.key:
        return f"{name} is missing: the report in its place holds {measured.name}"
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


def sample_note(report: EvaluationReport) -> str:
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


def _enough_persons(onnx: EvaluationReport) -> Advice:
    if onnx.fingerprint.subset:
        return _WHOLE_SPLIT
    return Advice(
        "Measure on more persons: give the evaluation split more images, or ask for fewer persons.",
        f"dataset.min_persons={onnx.fingerprint.num_persons}",
    )


def lose_less(run: Situation) -> Iterator[Advice]:
    """What may keep more of the accuracy."""
    yield from _stronger_recipe(run)
    yield from _more_persons(run)


def more_images(check: GateCheck, run: Situation) -> Iterator[Advice]:
    """What tells where an interval does not."""
    if run.onnx is not None and run.onnx.fingerprint.subset:
        yield _WHOLE_SPLIT
    elif check.images_to_decide:
        yield Advice(
            f"Give the evaluation split more images: about {check.images_to_decide:,} would tell whether too much was "
            "lost, if the loss stays as it is."
        )


def _stronger_recipe(run: Situation) -> Iterator[Advice]:
    recipe = run.config.recipe
    if run.requested.recipe.search == "off":
        yield Advice(
            "Let the pipeline look for the cheapest recipe that passes: it tries those of the ladder one by one.",
            "recipe.search=first",
        )
        yield from _other_ranges(run)
    elif run.requested.recipe.search_minutes is not None:
        yield Advice("Give the search for a recipe more time.", "recipe.search_minutes=null")
    if recipe.granularity == "per_tensor":
        yield Advice("Give each output channel its own weight scale.", "recipe.granularity=per_channel")
    if not recipe.fold_batch_norms:
        yield Advice("Fold batch norms before calibration.", "recipe.fold_batch_norms=true")
    if recipe.calibration_images < 500:
        yield Advice("Calibrate on more images.", f"recipe.calibration_images={2 * recipe.calibration_images}")
    if recipe.activation_bw == 8:
        yield Advice(
            "See in QuantSim whether activations are what loses accuracy (onnxruntime has no kernels for 16 bits, so "
            "such a file runs in float and the gate refuses it).",
            "recipe.activation_bw=16",
        )
    if recipe.param_bw == 4:
        yield Advice("Use 8-bit weights.", "recipe.param_bw=8")


def _other_ranges(run: Situation) -> Iterator[Advice]:
    """What the rungs of the ladder do, one by one."""
    recipe = run.config.recipe
    if not recipe.cross_layer_equalization and not run.config.model.network.from_file:
        yield Advice(
            "Even out the weight ranges before calibration; depthwise networks gain most.",
            "recipe.cross_layer_equalization=true",
        )
    # Which one keeps more depends on the network: peaks of heatmaps are rare, and an average error may cut them off.
    if recipe.scheme == "min_max":
        yield Advice("Choose ranges by the least error instead of the extremes.", "recipe.scheme=tf_enhanced")
    else:
        yield Advice("Choose ranges by the extremes instead of the least error.", "recipe.scheme=min_max")
    if recipe.weight_ranges == recipe.scheme:
        other = "min_max" if recipe.scheme == "tf_enhanced" else "tf_enhanced"
        yield Advice("Choose the ranges of weights alone the other way.", f"recipe.weight_scheme={other}")


def _more_persons(run: Situation) -> Iterator[Advice]:
    protocol = run.onnx.fingerprint if run.onnx else None
    if protocol is not None and protocol.subset:
        yield _WHOLE_SPLIT
    elif protocol is not None and protocol.num_persons < FEW_PERSONS:
        uncertain = "some hundredths" if run.metric.key == "ap" else "several percentage points"
        yield Advice(
            f"Measure on more persons: {protocol.num_persons} leave {run.metric.name} uncertain by {uncertain}."
        )
    if run.onnx is not None and run.onnx.failed_images:
        yield Advice(
            f"Mend or replace the images that the report names: {unreadable_text(run.onnx)}, and their persons count "
            "as missed."
        )
