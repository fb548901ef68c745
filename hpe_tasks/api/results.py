"""What the functions of the API give back: records of the pipeline that show themselves in a notebook.

Each has `_repr_html_`, which notebooks call, and is printed as the table that the command line shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hpe_tasks.api.ladder import Ladder
from hpe_tasks.api.shown import Shown
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import ConfigError, MissingInputError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.records.evaluation import EvaluationReport, Stats
from hpe_tasks.records.execution import KernelAgreement, KernelProof, LatencyComparison, PlacementAudit
from hpe_tasks.records.gate import GateCheck, GateDecision
from hpe_tasks.records.network import ExportedModel, QuantizedModel
from hpe_tasks.report.pictures import USUAL_COUNT, Pictures
from hpe_tasks.report.records import RunRecords, Verdict, verdict_of
from hpe_tasks.storage.files import write_atomically

if TYPE_CHECKING:
    from rich.console import RenderableType

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation(Shown):
    """Accuracy of one form of a model.

    Attributes:
        record: All of it, with the protocol that it was measured by.
    """

    record: EvaluationReport
    _run: Run = field(repr=False)

    @property
    def accuracy(self) -> float | None:
        """The judged figure: AP in [0, 1], or mean PCKh at 0.5 in percent; None where no person could be measured."""
        return self.record.accuracy

    @property
    def stats(self) -> Stats:
        """The statistics of the data set's metric."""
        return self.record.stats

    @property
    def by_joint(self) -> dict[str, float | None]:
        """The main figure of each joint; None where no person has it labelled."""
        return self.record.by_joint

    @property
    def by_group(self) -> dict[str, float | None]:
        """The main figure of each group of joints, such as `wrists`."""
        return self.record.by_group

    def predictions(self) -> Path:
        """The file with every pose that was found, as JSON; verified."""
        return self._run.workspace.local(self.record.predictions)

    def _repr_html_(self) -> str:
        from hpe_tasks.report.fragments import evaluation_html

        return evaluation_html(self.record)

    def _table(self) -> RenderableType:
        return _record_table("evaluate", self.record)


@dataclass(frozen=True)
class Quantization(Shown):
    """A calibrated QuantSim.

    Attributes:
        record: All of it, with the recipe, and the images that it was calibrated on.
    """

    record: QuantizedModel
    _run: Run = field(repr=False)

    def model(self) -> Path:
        """The network after folding and equalization, .safetensors or .onnx; verified."""
        return self._run.workspace.local(self.record.model)

    def encodings(self) -> Path:
        """AIMET's quantization encodings; verified."""
        return self._run.workspace.local(self.record.encodings)

    def _repr_html_(self) -> str:
        from hpe_tasks.report.fragments import facts_html

        record, recipe = self.record, self.record.recipe
        ranges = recipe.ranges.replace("_", " ")
        facts = (
            ("Weights and activations", f"{recipe.param_bw} and {recipe.activation_bw} bits"),
            ("Ranges", f"{recipe.granularity.replace('_', ' ')}, {ranges}"),
            ("Equalized (CLE)", "yes" if recipe.cross_layer_equalization else "no"),
            ("Calibrated on", f"{len(record.calibration_image_ids):,} images, {record.calibration_persons:,} persons"),
            ("Device", record.device),
            ("Tools", ", ".join(f"{tool} {version}" for tool, version in sorted(record.tool_versions.items()))),
            ("Encodings", record.encodings.uri),
        )
        return facts_html(f"QuantSim {recipe.name}", facts)

    def _table(self) -> RenderableType:
        return _record_table("quantize", self.record)


@dataclass(frozen=True)
class Export(Shown):
    """The file that ships.

    Attributes:
        record: All of it: inputs and outputs, size, where its arithmetic runs, and what was proved of it.
    """

    record: ExportedModel
    _run: Run = field(repr=False)

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.record.model.size_bytes

    @property
    def placement(self) -> PlacementAudit:
        """Where onnxruntime runs its arithmetic on the processor that exported it."""
        return self.record.placement

    def file(self) -> Path:
        """The int8 ONNX file in the workspace; verified. It belongs to the workspace: `save` makes a copy."""
        return self._run.workspace.local(self.record.model)

    def save(self, path: str | Path) -> Path:
        """Copy the int8 ONNX file; it appears whole, or not at all.

        Raises:
            StorageError: The file cannot be written.
        """
        out = Path(path)
        write_atomically(out, self.file().read_bytes())
        return out

    def _repr_html_(self) -> str:
        from hpe_tasks.report.fragments import export_html

        return export_html(RunRecords(config=self._run.config, run=self._run.name, exported=self.record))

    def _table(self) -> RenderableType:
        return _record_table("export_onnx", self.record)


@dataclass(frozen=True)
class Decision(Shown):
    """Whether a model may be published, and why.

    Attributes:
        record: All of it.
    """

    record: GateDecision
    _run: Run = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self.record.passed

    @property
    def inconclusive(self) -> bool:
        """Whether it did not pass only because too few images were measured to tell."""
        return self.record.inconclusive

    @property
    def checks(self) -> tuple[GateCheck, ...]:
        """What was observed, what was asked, and the reason."""
        return self.record.checks

    @property
    def reason(self) -> str:
        """The failed checks in one sentence; empty when all passed."""
        return self.record.reason

    def _repr_html_(self) -> str:
        from hpe_tasks.report.fragments import decision_html

        return decision_html(self.record, self._run.config.destination.name)

    def _table(self) -> RenderableType:
        return _record_table("gate", self.record)


@dataclass(frozen=True)
class PosePictures(Shown):
    """Persons, and whole images of a network that is shown those, with the truth, FP32's and int8's poses drawn.

    Attributes:
        pictures: JPEG data URIs, with what stands beside each.
    """

    pictures: Pictures

    def __len__(self) -> int:
        return len(self.pictures.persons)

    def _repr_html_(self) -> str:
        from hpe_tasks.report.fragments import pictures_html

        return pictures_html(self.pictures)

    def _table(self) -> RenderableType:
        told = [f"{p.reason}: FP32 {p.fp32_note}, int8 {p.int8_note} ({p.caption})" for p in self.pictures.persons]
        return "\n".join(told) or f"No pictures. {self.pictures.absent}"


@dataclass(frozen=True, repr=False)
class RunResult(Shown):
    """What a run has come to, as far as it has come.

    A property whose step has no result raises MissingInputError; in `records` it is None.

    Attributes:
        records: The records of all steps.
    """

    records: RunRecords
    _run: Run

    def __repr__(self) -> str:
        return f"<run {self.name}: {self.verdict.title}>"

    @property
    def name(self) -> str:
        """Folder of the run in the workspace: what `hpe show --run` takes."""
        return self._run.name

    @property
    def config(self) -> RunConfig:
        """What the run was asked."""
        return self._run.asked

    @property
    def workspace(self) -> str:
        """Address of the workspace that holds it."""
        return self._run.workspace.uri

    @property
    def cache(self) -> Path:
        """Folder of this machine that its data set and downloads lie in."""
        return self._run.cache

    @property
    def verdict(self) -> Verdict:
        """The outcome in words."""
        return verdict_of(self.records)

    @property
    def passed(self) -> bool:
        """Whether the gate has decided, and for the model."""
        return self.records.decision is not None and self.records.decision.passed

    @property
    def decision(self) -> Decision:
        """What the gate decided."""
        return Decision(self._of(steps.gate, self.records.decision), self._run)

    @property
    def ladder(self) -> Ladder:
        """The recipes that were tried, and which was chosen; without any where `recipe.search` is off."""
        return Ladder(self.records.rungs, self.records.choice, self.records)

    @property
    def fp32(self) -> Evaluation:
        """Accuracy of the checkpoint as it came."""
        return Evaluation(self._of(steps.evaluate_fp32, self.records.fp32), self._run)

    @property
    def quantsim(self) -> Evaluation:
        """Accuracy of the simulated int8 network."""
        measured = self._of(steps.evaluate_quantized, self.records.quantized_evaluation)
        return Evaluation(measured.quantsim, self._run)

    @property
    def onnx(self) -> Evaluation:
        """Accuracy of the exported file itself, in onnxruntime: what the gate judges."""
        return Evaluation(self._of(steps.evaluate_quantized, self.records.onnx), self._run)

    @property
    def quantized(self) -> Quantization:
        """The calibrated QuantSim."""
        return Quantization(self._of(steps.quantize, self.records.quantized), self._run)

    @property
    def exported(self) -> Export:
        """The file that ships."""
        return Export(self._of(steps.export_onnx, self.records.exported), self._run)

    @property
    def placement(self) -> PlacementAudit:
        """Where onnxruntime runs the file's arithmetic."""
        return self.exported.placement

    @property
    def kernel_proof(self) -> KernelProof:
        """What was proved of the file's sums in int8 kernels."""
        return self._of(steps.export_onnx, self.exported.record.proof)

    @property
    def kernel_agreement(self) -> KernelAgreement:
        """What this processor's int8 kernels made of the file, layer by layer."""
        measured = self._of(steps.evaluate_quantized, self.records.quantized_evaluation)
        return self._of(steps.evaluate_quantized, measured.kernels)

    @property
    def latency(self) -> LatencyComparison:
        """Speed of the file against FP32 on this machine, in milliseconds and as a ratio."""
        return self._of(steps.evaluate_quantized, self.records.latency)

    @property
    def command(self) -> str:
        """The shell command that asks for the same run: it would find these results.

        Passwords and signatures in addresses are left out of it.
        """
        from hpe_tasks.report.commands import command_with

        return command_with(self.records.requested, (), "hpe")

    def report(self) -> Path:
        """The HTML report of the run: one file on this machine, without network access."""
        record = self._of(steps.report, self._run.recorded(steps.report))
        return self._run.workspace.local(record.html)

    def save_model(self, path: str | Path) -> Path:
        """Copy the int8 ONNX file, whatever the gate said of it; see `Export.save`."""
        return self.exported.save(path)

    def pictures(self, count: int = USUAL_COUNT) -> PosePictures:
        """Persons with the truth, FP32's pose and int8's side by side.

        Where they cannot be drawn any more, as without the data set, the result says why.

        Args:
            count: How many. Half of them are those on whom the two disagree most, the others are drawn by the seed.

        Raises:
            MissingInputError: The exported file has not been measured.
            ConfigError: The count is below 1.
        """
        from hpe_tasks.pipeline.steps.reporting import files_of
        from hpe_tasks.report.pictures import pictures_of

        if count < 1:
            raise ConfigError(f"{count} pictures were asked for.", hint="Ask for one or more.")
        self._of(steps.evaluate_quantized, self.records.onnx)
        return PosePictures(pictures_of(self.records, files_of(self._run, self.records), count=count))

    def _of(self, step: Step[Any], value: T | None) -> T:
        if value is None:
            raise MissingInputError(
                f"The run {self.name} has no result of {step.name}. {self.verdict.title}: {self.verdict.detail}",
                hint="`records` holds what there is.",
            )
        return value

    def _repr_html_(self) -> str:
        from hpe_tasks.report.fragments import run_html

        return run_html(self.records)

    def _table(self) -> RenderableType:
        from hpe_tasks.report.summary import summary_table

        record = self._run.recorded(steps.report)
        return summary_table(self.records, report=None if record is None else record.html.uri)


def _record_table(step: str, record: Any) -> RenderableType:
    from hpe_tasks.report.summary import record_table

    return record_table(step, record)
