"""A changed file in the place of the exported one: described and measured by the functions of the steps themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hpe_tasks.models.onnx_model import describe_onnx
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.pipeline.steps.measuring import evaluate_on_split, fp32_of
from hpe_tasks.records.base import Record
from hpe_tasks.records.evaluation import EvaluationReport
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.records.network import ExportedModel
from hpe_tasks.selftest.bench import Bench
from hpe_tasks.storage.workspace import Scratch


def described(bench: Bench, file: Path) -> ExportedModel:
    """The healthy export's record with another file, of which the same has been found out."""
    exported = bench.healthy.result(steps.export_onnx)
    model = Scratch(file.parent, file.parent.as_uri()).artifact(file)
    shown = describe_onnx(file)
    changed = {
        "model": model,
        "opset": shown.opset,
        "inputs": shown.inputs,
        "outputs": shown.outputs,
        "placement": audit_placement(file),
        "proof": prove_kernels(file),
    }
    return exported.model_copy(update=changed)


def measured(bench: Bench, run: Run, file: Path) -> EvaluationReport:
    """The accuracy of a file on the run's evaluation split, in onnxruntime."""
    from hpe_tasks.inference import onnx_predictor

    network = partial(onnx_predictor, file, run.config.model)
    return evaluate_on_split(run, bench.scratch("measured"), "onnxruntime", network)


def measured_fp32(bench: Bench, run: Run, checkpoint: Path) -> EvaluationReport:
    """The accuracy of a checkpoint on the run's evaluation split, in float."""
    network = partial(fp32_of, run, run.config.model, checkpoint)
    return evaluate_on_split(run, bench.scratch("measured"), "fp32", network)


def judged(
    bench: Bench,
    name: str,
    file: Path,
    *,
    fp32: EvaluationReport | None = None,
    settings: Mapping[str, Any] | None = None,
) -> GateDecision:
    """What the gate decides on a file in the place of the exported one, measured and compared.

    Args:
        bench: Where the healthy run is.
        name: Of the run.
        file: The exported file.
        fp32: Accuracy of a checkpoint in the place of the healthy one.
        settings: What differs in the run's configuration.
    """
    healthy = bench.healthy.result(steps.evaluate_quantized)
    exported = described(bench, file)
    report = measured(bench, bench.planted_run(name, steps.evaluate_quantized, settings=settings), file)
    evaluation = healthy.model_copy(update={"onnx": report, "model_sha256": exported.model.sha256})
    instead: dict[Step[Any], Record] = {steps.export_onnx: exported, steps.evaluate_quantized: evaluation}
    if fp32 is not None:
        instead[steps.evaluate_fp32] = fp32
    run = bench.planted_run(name, steps.compare_accuracy, settings=settings, instead=instead)
    steps.compare_accuracy(run)
    return steps.gate(run)
