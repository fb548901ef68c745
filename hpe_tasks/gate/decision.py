"""The gate: whether a quantized model may be published, and why.

The exported file is what the gate judges, since that is what will be served; FP32 and QuantSim only say how much it
lost. A number that is missing, out of range, or made under another protocol fails its check: no evidence, no release.
"""

from __future__ import annotations

from hpe_tasks.config.gate import GateLimits
from hpe_tasks.config.run import Processors
from hpe_tasks.datasets import GateMetric
from hpe_tasks.gate.accuracy import METRICS
from hpe_tasks.gate.checks import CHECKS
from hpe_tasks.gate.checks.base import Evidence
from hpe_tasks.records.comparison import PairedComparison
from hpe_tasks.records.evaluation import EvaluationReport, QuantizedEvaluation
from hpe_tasks.records.gate import GateDecision
from hpe_tasks.records.network import ExportedModel


def decide(
    limits: GateLimits,
    fp32: EvaluationReport,
    quantized: QuantizedEvaluation,
    exported: ExportedModel,
    processors: Processors = "any",
    *,
    metric: GateMetric = "ap",
    min_persons: int = 1,
    comparison: PairedComparison | None = None,
) -> GateDecision:
    """Judge the exported file against the limits.

    A model that was measured on a subset may pass; the reasons then say how many images it was measured on. On fewer
    than `min_persons` it does not: whatever the figure, it proves nothing.

    Args:
        limits: What the model must reach.
        fp32: Accuracy of the model before quantization.
        quantized: Accuracy of QuantSim and of the exported file, and what the int8 kernels made of the file.
        exported: The exported file, its size, its placement audit, and what was proved of its kernels.
        processors: Where the file may be served, which decides what must be proved.
        metric: The figure that is judged: `dataset.gate_metric`.
        min_persons: Fewest persons that the figures must be measured on: `dataset.min_persons`.
        comparison: FP32 and the exported file on the same images, resampled. Without, or without its intervals, losses
            are judged by the figures alone, and the reasons say so.

    Returns:
        One check for each limit that is asked, in the order of CHECKS; passed when all of them passed.
    """
    evidence = Evidence(limits, METRICS[metric], fp32, quantized, exported, processors, min_persons, comparison)
    judged = (check.judge(evidence) for check in CHECKS)
    checks = tuple(check for check in judged if check is not None)
    return GateDecision(passed=all(check.passed for check in checks), checks=checks, comparison=comparison)
