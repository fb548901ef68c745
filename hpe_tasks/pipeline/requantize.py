"""The first pipeline: from a pose checkpoint to a published int8 ONNX model."""

from __future__ import annotations

from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.pipeline import Pipeline
from hpe_tasks.pipeline.runs import FIRST_PIPELINE
from hpe_tasks.pipeline.steps.ladder import TRY_RUNGS

REQUANTIZE = Pipeline(
    name=FIRST_PIPELINE,
    command="run",
    summary="Run every step, publish the model if it passes, and print what came out.",
    steps=(
        steps.preflight,
        steps.fetch_checkpoint,
        steps.fetch_dataset,
        steps.validate_dataset,
        steps.evaluate_fp32,
        steps.check_fp32,
        *TRY_RUNGS,
        steps.choose_recipe,
        steps.quantize,
        steps.export_onnx,
        steps.evaluate_quantized,
        steps.compare_accuracy,
        steps.gate,
        steps.publish,
        steps.smoke_test_lambda,
        steps.promote,
        steps.diagnose_layers,
        steps.report,
    ),
)
