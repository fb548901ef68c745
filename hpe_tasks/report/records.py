"""What one run has produced so far, and what that amounts to: the table and the report both read it from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from hpe_tasks.config.presets import PRESETS
from hpe_tasks.config.run import RunConfig
from hpe_tasks.gate.accuracy import UNITS, Metric, megabytes_text, metric_named, metric_of
from hpe_tasks.gate.floor import diagnosis_text
from hpe_tasks.gate.published import published_figures
from hpe_tasks.gate.references import ComparedFigure, Reference, compare
from hpe_tasks.records.comparison import PairedComparison
from hpe_tasks.records.diagnosis import Fp32Check
from hpe_tasks.records.evaluation import EvaluationReport, QuantizedEvaluation
from hpe_tasks.records.execution import LatencyComparison, SpeedUp
from hpe_tasks.records.gate import GateCheck, GateDecision
from hpe_tasks.records.inputs import DatasetValidation, FetchedCheckpoint, FetchedDataset
from hpe_tasks.records.ladder import RecipeChoice, RungOutcome
from hpe_tasks.records.layers import LayerDiagnosis
from hpe_tasks.records.network import ExportedModel, QuantizedModel
from hpe_tasks.records.preflight import Preflight
from hpe_tasks.records.release import PromotedModel, PublishedModel, SmokeTest
from hpe_tasks.records.retraining import (
    CheckpointComparison,
    LiveCheckpoint,
    RegisteredCheckpoint,
    TrainedCheckpoint,
)
from hpe_tasks.records.run import StepFailure, StepOutcome
from hpe_tasks.report.retraining import retrained_title, sentence

VerdictKind = Literal[
    "published", "passed", "done", "kept", "gate_failed", "refused", "inconclusive", "failed", "unfinished"
]

_LONGEST_SETTING = 60


@dataclass(frozen=True)
class RunRecords:
    """The results that a run's steps have stored; None for a step that stored nothing.

    Each step of a pipeline names the field that holds its record.

    Attributes:
        config: What the run goes by: with the recipe that a search has chosen.
        asked: What it was asked; None where that is the same.
        rungs: How it went with each rung of the ladder, in its order; empty where no recipe is searched.
        failures: Of the steps whose last attempt failed.
        steps: How each step went, in their order.
        git_commit: Of the project's code that made them; None outside a checkout.
    """

    config: RunConfig
    run: str
    asked: RunConfig | None = None
    started: datetime | None = None
    preflight: Preflight | None = None
    dataset: FetchedDataset | None = None
    checkpoint: FetchedCheckpoint | None = None
    validation: DatasetValidation | None = None
    fp32: EvaluationReport | None = None
    fp32_check: Fp32Check | None = None
    choice: RecipeChoice | None = None
    quantized: QuantizedModel | None = None
    exported: ExportedModel | None = None
    quantized_evaluation: QuantizedEvaluation | None = None
    comparison: PairedComparison | None = None
    decision: GateDecision | None = None
    published: PublishedModel | None = None
    smoke_test: SmokeTest | None = None
    promoted: PromotedModel | None = None
    rungs: tuple[RungOutcome, ...] = ()
    layers: LayerDiagnosis | None = None
    trained: TrainedCheckpoint | None = None
    live: LiveCheckpoint | None = None
    parent: EvaluationReport | None = None
    compared_checkpoints: CheckpointComparison | None = None
    registered: RegisteredCheckpoint | None = None
    failures: tuple[StepFailure, ...] = ()
    steps: tuple[StepOutcome, ...] = ()
    git_commit: str | None = None

    @property
    def requested(self) -> RunConfig:
        """What the run was asked: what a command for another run like it starts from."""
        return self.asked or self.config

    @property
    def onnx(self) -> EvaluationReport | None:
        """Accuracy of the exported file."""
        return self.quantized_evaluation.onnx if self.quantized_evaluation else None

    @property
    def below_floor(self) -> Fp32Check | None:
        """The check that stopped the run before quantization; None where none did."""
        check = self.fp32_check
        return None if check is None or check.passed else check

    @property
    def latency(self) -> LatencyComparison | None:
        """Speed of the exported file against FP32."""
        return self.quantized_evaluation.latency if self.quantized_evaluation else None

    @property
    def measurements(self) -> tuple[tuple[str, EvaluationReport | None], ...]:
        """(label, accuracy) of the three forms of the model, in the order in which they are made.

        Of a training: of the new checkpoint, and of the one that the live version came from.
        """
        if self.trained is not None:
            return (("New checkpoint", self.fp32), ("Live version's", self.parent))
        quantized = self.quantized_evaluation
        return (
            ("FP32", self.fp32),
            ("QuantSim", quantized.quantsim if quantized else None),
            ("ONNX int8", quantized.onnx if quantized else None),
        )

    @property
    def metric(self) -> Metric:
        """What the run is judged by."""
        return metric_named(self.config.dataset.described.metric)

    @property
    def drop(self) -> float | None:
        """Accuracy that quantization cost, FP32 minus the exported file; None while either is unknown."""
        before = self.fp32.accuracy if self.fp32 else None
        after = self.onnx.accuracy if self.onnx else None
        return None if before is None or after is None else before - after

    @property
    def reference(self) -> Reference | None:
        """Published figures of the preset that the run started from; None where there are none."""
        preset = PRESETS.get(self.config.preset)
        return published_figures(preset.reference) if preset and preset.reference else None

    @property
    def compared(self) -> tuple[ComparedFigure, ...]:
        """The run's figures beside the published ones."""
        if self.reference is None:
            return ()
        # The live version's checkpoint is not this run's.
        measured = [report for _, report in self.measurements if report is not self.parent]
        config = self.config
        return compare(self.reference, measured, architecture=config.model.architecture, recipe=config.recipe)


@dataclass(frozen=True)
class Verdict:
    """The outcome of the run: a headline and one sentence below it."""

    kind: VerdictKind
    title: str
    detail: str

    @property
    def good(self) -> bool:
        """Whether the model met every requirement; where nothing is judged, whether the run has come to its end."""
        return self.kind in ("published", "passed", "done", "kept")

    @property
    def tone(self) -> str:
        """How it is shown: `good`, `bad` or neither, as a checkpoint that is kept and starts nothing."""
        return "good" if self.good and self.kind != "kept" else "bad" if self.bad else ""

    @property
    def bad(self) -> bool:
        """Whether something failed, or the model was refused."""
        return self.kind in ("failed", "gate_failed", "refused")


def verdict_of(records: RunRecords) -> Verdict:
    """The run's outcome in words."""
    failed = next((step for step in records.steps if step.state == "failed"), None)
    if failed is not None:
        detail = failed.failure.message if failed.failure else "The data set does not meet its expectations."
        return Verdict("failed", f"Failed at {failed.name}", detail)
    refused = _refused(records)
    if refused is not None:
        return refused
    if records.published is not None and records.promoted is not None:
        return _promoted(records.published, records.promoted)
    following = next((step.name for step in records.steps if step.state == "not_run"), None)
    # Records that were put together without steps tell nothing of what comes next.
    finished = bool(records.steps) and following is None
    detail = _all_done(records) if finished else f"The next step is {following}." if following else ""
    if records.published is not None:
        yet = "" if finished else " yet"
        title = f"Published {records.published.name} {records.published.version}, no channel serves it{yet}"
        detail = records.published.kept_by_pin or detail
        return Verdict("passed", title, detail)
    if records.decision is not None:
        return Verdict("passed", "Passed the gate" if finished else "Passed the gate, not published yet", detail)
    return _done(records, detail) if finished else Verdict("unfinished", "Not finished", detail)


def _done(records: RunRecords, detail: str) -> Verdict:
    if records.registered is not None:
        kind: VerdictKind = "done" if records.registered.better else "kept"
        return Verdict(kind, retrained_title(records.registered), sentence(records.registered.reason))
    return Verdict("done", "Done", detail)


def _all_done(records: RunRecords) -> str:
    skipped = [step.name for step in records.steps if step.state == "skipped"]
    judged = "" if records.decision is not None else " This pipeline judges no model."
    if not skipped:
        return f"Every step is done.{judged}"
    return f"Every step is done but {' and '.join(skipped)}, which {_was(skipped)} skipped.{judged}"


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _refused(records: RunRecords) -> Verdict | None:
    if (check := records.below_floor) is not None:
        found = "" if check.diagnosis is None else f" {diagnosis_text(check.diagnosis)}"
        title = "Stopped before quantization: FP32 is below the gate's floor"
        return Verdict("gate_failed", title, f"{check.reason}.{found}")
    if records.decision is not None and not records.decision.passed:
        if records.decision.inconclusive:
            needed = max((check.images_to_decide or 0 for check in records.decision.checks), default=0)
            more = f"; about {needed:,} would tell" if needed else ""
            measured = "" if records.comparison is None else f"{records.comparison.num_images:,} images are "
            detail = f"{measured}too few to tell whether too much accuracy was lost{more}."
            return Verdict("inconclusive", "Not published: the gate is inconclusive", detail)
        detail = f"{len(records.decision.failed)} of {len(records.decision.checks)} checks failed."
        return Verdict("gate_failed", "Not published: the gate failed", detail)
    refusing = next((step.name for step in records.steps if step.state == "refused"), None)
    if refusing is not None:
        return Verdict("refused", f"Refused by {refusing}", "Its record says why.")
    return None


def _promoted(published: PublishedModel, model: PromotedModel) -> Verdict:
    moved = f"Channel {model.channel} now serves it"
    if model.previous_version == model.version:
        moved = f"Channel {model.channel} served it already"
    elif model.previous_version is not None:
        moved += f" in place of {model.previous_version}"
    if not published.created:
        moved += "; the same content had been published before, so no new version was made"
    return Verdict("published", f"Published {model.name} {model.version}", moved + ".")


def publication_rows(records: RunRecords) -> Iterator[tuple[str, str]]:
    """(label, text) of what was published, tested and promoted, as far as the run has come."""
    if (registered := records.registered) is not None:
        yield "Checkpoint", registered.checkpoint
        yield "Lineage", registered.lineage.uri
    if (published := records.published) is not None:
        key = published.signed_by
        yield "Published", published.manifest.uri
        yield "Signature", "none" if key is None else f"Ed25519, public key with the SHA-256 {key[:16]}…"
    if (test := records.smoke_test) is not None:
        people, expected = sum(one.people for one in test.images), sum(one.expected for one in test.images)
        lowest = min((one.min_oks for one in test.images if one.min_oks is not None), default=None)
        similar = "" if lowest is None else f", OKS at least {lowest:.3f}"
        yield "Smoke test", f"{people} of {expected} people in {len(test.images)} golden images{similar}"
        sizes = f"{megabytes_text(test.unzipped_bytes)} unzipped, {megabytes_text(test.zipped_bytes)} zipped"
        yield "Lambda package", f"{sizes}; first answer after {test.cold_start_ms:,.0f} ms on Python {test.python}"
        yield "Function's CPU", ", ".join(test.cpu_features)
    if (promoted := records.promoted) is not None:
        yield "Channel", f"{promoted.channel} of {promoted.name} in {promoted.registry}"


def margin_of(check: GateCheck) -> float | None:
    """The room left to the limit, negative where it is crossed; None without an observation."""
    if check.observed is None:
        return None
    room = check.observed - check.limit
    return room if check.comparison == "at_least" else -room


def quantities_of(check: GateCheck) -> tuple[str, str, str]:
    """A check's observation, limit and margin as they are shown, with decimals that tell them apart."""
    unit, margin = UNITS[check.unit], margin_of(check)
    decimals = unit.decimals if check.observed is None else unit.decimals_between(check.observed, check.limit)
    relation = "≥" if check.comparison == "at_least" else "≤"
    sign = "" if margin is None else ("+" if margin >= 0 else "−")
    return (
        unit.text(check.observed, decimals),
        f"{relation} {unit.text(check.limit, decimals)}",
        sign + unit.text(None if margin is None else abs(margin), decimals),
    )


def interval_text(check: GateCheck) -> str:
    """A check's interval behind its observation; empty without one."""
    if check.interval is None or check.observed is None:
        return ""
    unit = UNITS[check.unit]
    decimals = unit.decimals_between(check.observed, check.limit)
    return f" [{', '.join(unit.text(end, decimals) for end in check.interval)}]"


@dataclass(frozen=True)
class StatRow:
    """One statistic, or a count, for each form of the model."""

    label: str
    meaning: str
    values: tuple[str, ...]


def stat_rows(records: RunRecords, *, brief: bool = False) -> tuple[StatRow, ...]:
    """The metric's statistics and what they were measured on; `brief` leaves the less usual ones out."""
    reports = [report for _, report in records.measurements]
    if not any(reports):
        return ()
    metric = records.metric

    def row(label: str, meaning: str, cell: Callable[[EvaluationReport], str]) -> StatRow:
        return StatRow(label, meaning, tuple(cell(report) if report else "–" for report in reports))

    def of(field: str) -> Callable[[EvaluationReport], str]:
        return lambda report: metric.text(getattr(report.stats, field) if metric_of(report.stats) == metric else None)

    rows = [row(c.label, c.meaning, of(c.field)) for c in metric.columns if c.brief or not brief]
    if metric.counts_joints:
        counted = row("Joints", "labelled, in the means", lambda r: f"{getattr(r.stats, 'num_joints', 0) or '–':,}")
        rows.append(counted)
    rows.append(row("Persons", "", lambda report: f"{report.fingerprint.num_persons:,}"))
    rows.append(row("Images", "", lambda report: f"{report.fingerprint.num_images:,}"))
    if any(report.failed_images for report in reports if report):
        rows.append(row("Unreadable images", "their persons count as missed", lambda r: f"{len(r.failed_images):,}"))
    return tuple(rows)


def measured_on(records: RunRecords) -> str:
    """The CPUs that the measurements were made on, by their int8 features; empty without a measurement."""
    forms: dict[str, list[str]] = {}
    for label, report in records.measurements:
        if report is not None:
            forms.setdefault(cpu_text(report), []).append(label)
    if len(forms) == 1:
        return f"Measured on {next(iter(forms))}."
    return " ".join(f"{' and '.join(labels)} measured on {cpu}." for cpu, labels in forms.items())


def cpu_text(report: EvaluationReport) -> str:
    """The CPU of a measurement, by its int8 features; records of older versions do not name it."""
    return f"a CPU with {', '.join(report.cpu_features)}" if report.cpu_features else "an unknown CPU"


def threads_text(count: int) -> str:
    """A number of threads in words."""
    return f"{count} thread{'' if count == 1 else 's'}"


def milliseconds_text(value: float) -> str:
    """A time with three digits that count."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} ms"


def noise_text(speed_up: SpeedUp) -> str:
    """The interval that holds the true ratio."""
    times = UNITS["times"]
    return f"95 % interval {times.text(speed_up.ratio_low)} to {times.text(speed_up.ratio_high)}"


def speed_rows(latency: LatencyComparison | None) -> Iterator[tuple[str, str]]:
    """(label, text) of the exported file's speed, for each number of threads, and what it was measured on."""
    if latency is None:
        return
    for one in latency.speed_ups:
        median = f"{milliseconds_text(one.onnx.median_ms)} (FP32 {milliseconds_text(one.fp32.median_ms)})"
        p95 = f"{milliseconds_text(one.onnx.p95_ms)} ({milliseconds_text(one.fp32.p95_ms)})"
        times = f"{UNITS['times'].text(one.ratio)} as fast as FP32 ({noise_text(one)})"
        yield f"Speed, {threads_text(one.threads)}", times
        yield "", f"median {median}, p95 {p95}"
    yield "Timed on", timed_on(latency)


def timed_on(latency: LatencyComparison) -> str:
    """The processor and the runtime of a speed."""
    features = ", ".join(latency.cpu_features)
    return f"{latency.processor} ({features}), onnxruntime {latency.onnxruntime_version}"


def notes_of(metric: Metric) -> tuple[str, ...]:
    """What a reader must know about the metric's statistics."""
    return tuple(column.note for column in metric.columns if column.note)


def comparison_text(row: ComparedFigure, reference: Reference) -> str:
    """What a published figure and the run's own say about one another."""
    if row.obstacles:
        return f"not comparable: {'; '.join(row.obstacles)}"
    if row.difference is None:
        return "not measured"
    return f"{'within' if row.within else 'outside'} the tolerance of {published_text(reference.tolerance)}"


def published_text(value: float | None) -> str:
    """A figure beside a published one, with the three decimals that those have; a dash for no data."""
    return "–" if value is None else f"{value:.3f}"


def short_setting(setting: str) -> str:
    """A setting as it fits a table: of a long list only the first values."""
    return setting if len(setting) <= _LONGEST_SETTING else f"{setting[:_LONGEST_SETTING]}…"
