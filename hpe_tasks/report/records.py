"""What one run has produced so far, and what that amounts to: the table and the report both read it from here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from hpe_tasks.config import RunConfig
from hpe_tasks.results import (
    DatasetValidation,
    EvaluationReport,
    ExportedModel,
    FetchedCheckpoint,
    FetchedDataset,
    GateCheck,
    GateDecision,
    PublishedModel,
    QuantizedEvaluation,
    QuantizedModel,
    StepFailure,
)

StepState = Literal["done", "failed", "refused", "skipped", "not_run"]
VerdictKind = Literal["published", "passed", "gate_failed", "failed", "unfinished"]

# (step, the field of RunRecords that it fills, what it does in two or three words), in the order of the run.
_STEPS = (
    ("fetch_dataset", "dataset", "Data set"),
    ("fetch_checkpoint", "checkpoint", "Checkpoint"),
    ("validate_dataset", "validation", "Validation"),
    ("evaluate_fp32", "fp32", "FP32 accuracy"),
    ("quantize", "quantized", "Quantization"),
    ("export_onnx", "exported", "ONNX export"),
    ("evaluate_quantized", "quantized_evaluation", "int8 accuracy"),
    ("gate", "decision", "Gate"),
    ("publish", "published", "Publishing"),
)


@dataclass(frozen=True)
class RunRecords:
    """The results that a run's steps have stored; None for a step that stored nothing.

    Attributes:
        failures: Of the steps whose last attempt failed.
        git_commit: Of the project's code that made them; None outside a checkout.
    """

    config: RunConfig
    run: str
    started: datetime | None = None
    dataset: FetchedDataset | None = None
    checkpoint: FetchedCheckpoint | None = None
    validation: DatasetValidation | None = None
    fp32: EvaluationReport | None = None
    quantized: QuantizedModel | None = None
    exported: ExportedModel | None = None
    quantized_evaluation: QuantizedEvaluation | None = None
    decision: GateDecision | None = None
    published: PublishedModel | None = None
    failures: tuple[StepFailure, ...] = ()
    git_commit: str | None = None

    @property
    def onnx(self) -> EvaluationReport | None:
        """Accuracy of the exported file."""
        return self.quantized_evaluation.onnx if self.quantized_evaluation else None

    @property
    def measurements(self) -> tuple[tuple[str, EvaluationReport | None], ...]:
        """(label, accuracy) of the three forms of the model, in the order in which they are made."""
        quantized = self.quantized_evaluation
        return (
            ("FP32", self.fp32),
            ("QuantSim", quantized.quantsim if quantized else None),
            ("ONNX int8", quantized.onnx if quantized else None),
        )

    @property
    def ap_drop(self) -> float | None:
        """AP that quantization cost, FP32 minus the exported file; None while either is unknown."""
        before = self.fp32.stats.ap if self.fp32 else None
        after = self.onnx.stats.ap if self.onnx else None
        return None if before is None or after is None else before - after


@dataclass(frozen=True)
class Step:
    """How one step of the run went."""

    name: str
    title: str
    state: StepState
    failure: StepFailure | None


def steps_of(records: RunRecords) -> tuple[Step, ...]:
    """How each step went, in the order of the run. A failure counts more than a result of an earlier attempt."""
    failures = {failure.step: failure for failure in records.failures}
    invalid = records.validation is not None and not records.validation.passed
    refused = records.decision is not None and not records.decision.passed
    steps = []
    for name, field, title in _STEPS:
        failure = failures.get(name)
        state: StepState = "not_run"
        if failure is not None or (name == "validate_dataset" and invalid):
            state = "failed"
        elif name == "gate" and refused:
            state = "refused"
        elif getattr(records, field) is not None:
            state = "done"
        elif name == "publish" and refused:
            state = "skipped"
        steps.append(Step(name, title, state, failure))
    return tuple(steps)


@dataclass(frozen=True)
class Verdict:
    """The outcome of the run: a headline and one sentence below it."""

    kind: VerdictKind
    title: str
    detail: str

    @property
    def good(self) -> bool:
        """Whether the model met every requirement."""
        return self.kind in ("published", "passed")


def verdict_of(records: RunRecords) -> Verdict:
    """The run's outcome in words."""
    failed = next((step for step in steps_of(records) if step.state == "failed"), None)
    if failed is not None:
        detail = failed.failure.message if failed.failure else "The data set does not meet its expectations."
        return Verdict("failed", f"Failed at {failed.name}", detail)
    if records.decision is not None and not records.decision.passed:
        failures = sum(not check.passed for check in records.decision.checks)
        detail = f"{failures} of {len(records.decision.checks)} checks failed."
        return Verdict("gate_failed", "Not published: the gate failed", detail)
    if records.published is not None:
        return _published(records.published)
    if records.decision is not None:
        return Verdict("passed", "Passed the gate, not published yet", "The next step is publish.")
    following = next((step.name for step in steps_of(records) if step.state == "not_run"), "report")
    return Verdict("unfinished", "Not finished", f"The next step is {following}.")


def _published(model: PublishedModel) -> Verdict:
    moved = f"Channel {model.channel} now serves it"
    if model.previous_version == model.version:
        moved = f"Channel {model.channel} served it already"
    elif model.previous_version is not None:
        moved += f" in place of {model.previous_version}"
    if not model.created:
        moved += "; the same content had been published before, so no new version was made"
    return Verdict("published", f"Published {model.name} {model.version}", moved + ".")


def margin_of(check: GateCheck) -> float | None:
    """The room left to the limit, negative where it is crossed; None without an observation."""
    if check.observed is None:
        return None
    room = check.observed - check.limit
    return room if check.comparison == "at_least" else -room


def ap_text(value: float | None) -> str:
    """An AP or AR in [0, 1] with three decimals; a dash for no data."""
    return "–" if value is None else f"{value:.3f}"


def megabytes_text(size_bytes: int) -> str:
    """A size in MB (1e6 bytes), with the decimals that its magnitude deserves."""
    megabytes = size_bytes / 1e6
    return f"{megabytes:.2f} MB" if megabytes < 10 else f"{megabytes:.1f} MB"


def decimals_of(check: GateCheck) -> int:
    """The decimals that tell a check's observation from its limit."""
    factor, decimals = (100, 1) if check.unit == "share" else (1, 1 if check.unit == "MB" else 3)
    margin = abs(margin_of(check) or 0.0) * factor
    while decimals < 9 and margin > 1e-9 and margin < 0.5 * 10**-decimals:
        decimals += 1
    return decimals


def quantity_text(value: float | None, unit: str, decimals: int) -> str:
    """A gate's number in its unit; a dash for no data. AP has no unit that is worth showing."""
    if value is None:
        return "–"
    if unit == "share":
        return f"{100 * value:.{decimals}f} %"
    return f"{value:.{decimals}f}" + ("" if unit == "AP" else f" {unit}")
