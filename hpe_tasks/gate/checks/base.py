"""What a check of the gate is: a limit, what is observed, in which unit, and what to try where it fails."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.config.run import Processors, RunConfig
from hpe_tasks.gate.accuracy import TOLERANCE, UNITS, AccuracyLimits, Metric, accuracy_limits
from hpe_tasks.records.comparison import PairedComparison
from hpe_tasks.records.evaluation import EvaluationReport, QuantizedEvaluation
from hpe_tasks.records.execution import LatencyComparison
from hpe_tasks.records.gate import GateCheck
from hpe_tasks.records.network import ExportedModel


@dataclass(frozen=True)
class Evidence:
    """What a model is judged by.

    Attributes:
        limits: What it must reach.
        metric: The figure that is judged.
        fp32: Accuracy of the model before quantization.
        quantized: Accuracy of QuantSim and of the exported file, and what the int8 kernels made of the file.
        exported: The exported file, its size, its placement audit, and what was proved of its kernels.
        processors: Where the file may be served.
        min_persons: Fewest persons that the figures must be measured on.
        comparison: FP32 and the exported file on the same images, resampled; None where they were not compared so.
    """

    limits: GateLimits
    metric: Metric
    fp32: EvaluationReport
    quantized: QuantizedEvaluation
    exported: ExportedModel
    processors: Processors
    min_persons: int
    comparison: PairedComparison | None = None

    @property
    def onnx(self) -> EvaluationReport:
        """Accuracy of the exported file: what will be served."""
        return self.quantized.onnx

    @property
    def accuracy(self) -> AccuracyLimits:
        """The limits in the judged metric's own unit."""
        return accuracy_limits(self.limits, self.metric.key)


class Situation(Protocol):
    """What is known of a run whose model was refused."""

    @property
    def config(self) -> RunConfig:
        """What the run goes by."""

    @property
    def requested(self) -> RunConfig:
        """What the run was asked: the same, where no recipe was searched."""

    @property
    def metric(self) -> Metric:
        """What it is judged by."""

    @property
    def fp32(self) -> EvaluationReport | None:
        """Accuracy before quantization."""

    @property
    def onnx(self) -> EvaluationReport | None:
        """Accuracy of the exported file."""

    @property
    def latency(self) -> LatencyComparison | None:
        """Speed of the exported file against FP32."""

    @property
    def exported(self) -> ExportedModel | None:
        """The exported file."""


@dataclass(frozen=True)
class Advice:
    """One thing to try; `setting` is a `--set` argument where there is one."""

    text: str
    setting: str = ""


@dataclass(frozen=True)
class Observation:
    """What a check has found.

    Attributes:
        value: The number that is compared with the limit; None without one.
        problem: What keeps it from being compared; empty where nothing does.
        note: What a reader must know beside the number.
        verdict: (passed, reason) where comparing the number is not what decides.
        inconclusive: The verdict is that too little was measured to tell.
        interval: Ends of the number's interval.
        probability: Share of the resamples in which the limit is kept.
        images_to_decide: About how many images would tell.
    """

    value: float | None
    problem: str = ""
    note: str = ""
    verdict: tuple[bool, str] | None = None
    inconclusive: bool = False
    interval: tuple[float, float] | None = None
    probability: float | None = None
    images_to_decide: int | None = None


class Requirement(ABC):
    """One requirement.

    Attributes:
        title: What it is about, for people.
        comparison: Which side of the limit is good.
        unit: Of limit and observation, by its key in UNITS; empty for the judged metric's own.
        names: What it is called in records: a version is a digest of these names and of the limits.
    """

    title: ClassVar[str]
    comparison: ClassVar[Literal["at_least", "at_most"]]
    unit: ClassVar[str] = ""
    names: ClassVar[tuple[str, ...]]

    def name(self, evidence: Evidence) -> str:  # noqa: ARG002 - some have several
        """Its name for this evidence."""
        return self.names[0]

    @abstractmethod
    def subject(self, evidence: Evidence) -> str:
        """What is observed, as its sentence begins."""

    @abstractmethod
    def limit(self, evidence: Evidence) -> float | None:
        """The limit; None where nothing is asked.

        A limit that is off leaves no check: the version of a model that is not judged by its speed says nothing of it.
        """

    @abstractmethod
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        """What was found."""

    @abstractmethod
    def advise(self, run: Situation) -> Iterator[Advice]:
        """What may lift it where it failed, most promising first."""

    def judge(self, evidence: Evidence) -> GateCheck | None:
        """Compare what was found with the limit; None where nothing is asked.

        A number that is missing fails: no evidence, no release.
        """
        limit = self.limit(evidence)
        if limit is None:
            return None
        found, unit = self.observe(evidence, limit), self.unit or evidence.metric.name
        observed = None if found.problem else found.value
        if found.problem:
            passed, reason = False, found.problem
        elif found.verdict is not None:
            passed, reason = found.verdict
        else:
            passed, reason = self._compare(self.subject(evidence), unit, observed, limit, found.note)
        return GateCheck(
            name=self.name(evidence),
            title=self.title,
            passed=passed,
            observed=observed,
            limit=limit,
            comparison=self.comparison,
            unit=unit,
            reason=reason,
            inconclusive=found.inconclusive,
            interval=found.interval,
            probability=found.probability,
            images_to_decide=found.images_to_decide,
        )

    def _compare(self, subject: str, unit: str, value: float | None, limit: float, note: str) -> tuple[bool, str]:
        if value is None:
            return False, f"{subject} is unknown"
        if self.comparison == "at_least":
            passed = value >= limit - TOLERANCE
            relation = "at least" if passed else "below"
        else:
            passed = value <= limit + TOLERANCE
            relation = "at most" if passed else "above"
        shown = UNITS[unit]
        decimals = shown.decimals_between(value, limit)
        reason = f"{subject} {shown.text(value, decimals)} is {relation} {shown.text(limit, decimals)}"
        return passed, reason + (f" ({note})" if note else "")
