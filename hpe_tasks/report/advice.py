"""What to try next when the gate refuses a model: settings that this run has not used yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

from hpe_tasks.config.run import Processors
from hpe_tasks.gate.accuracy import FEW_PERSONS, accuracy_limits, unreadable_text
from hpe_tasks.records import EvaluationReport, GateCheck
from hpe_tasks.report.records import RunRecords, megabytes_text

# A limit below this share of the metric's maximum would be none.
_USEFUL_SHARE = 0.05


@dataclass(frozen=True)
class Advice:
    """One thing to try; `setting` is a `--set` argument where there is one."""

    text: str
    setting: str = ""


_WHOLE_SPLIT = Advice("Measure on the whole split instead of a quick look.", "evaluation.num_images=null")


def next_steps(records: RunRecords) -> tuple[Advice, ...]:
    """What may lift the failed checks, most promising first, each once; empty when the gate passed or has not run."""
    if records.decision is None or records.decision.passed:
        return ()
    found: dict[Advice, None] = {}
    for check in records.decision.checks:
        if not check.passed:
            found.update(dict.fromkeys(_for_check(check, records)))
    return tuple(found)


def _for_check(check: GateCheck, records: RunRecords) -> Iterator[Advice]:
    if check.observed is None:
        yield Advice(f"{check.title}: there is no number to judge. {check.reason}. Run the evaluation steps again.")
        return
    advise = _ADVISERS.get(check.name)
    if advise is not None:
        yield from advise(records)


def _minimum(records: RunRecords) -> Iterator[Advice]:
    metric, limit = records.metric, accuracy_limits(records.config.gate).minimum
    reached = records.onnx.accuracy if records.onnx else None
    if records.onnx is not None and reached is not None and reached >= limit:
        # High enough, on too few persons.
        yield from _enough_persons(records.onnx)
        return
    before = records.fp32.accuracy if records.fp32 else None
    if before is None or before >= limit:
        yield from _drop(records)
        return
    reached = before if reached is None else min(before, reached)
    step = 0.01 * metric.maximum
    possible = math.floor(reached / step) * step
    yield Advice(
        f"FP32 itself reaches only {metric.text(before)}: no recipe can lift int8 above {metric.text(limit)} for "
        "certain. Use a better checkpoint, check that mean, std and the joint order fit it, or ask for less.",
        f"gate.min_{metric.key}={possible:.3g}" if reached >= _USEFUL_SHARE * metric.maximum else "",
    )
    yield from _more_persons(records)


def _enough_persons(onnx: EvaluationReport) -> Iterator[Advice]:
    if onnx.fingerprint.subset:
        yield _WHOLE_SPLIT
        return
    yield Advice(
        "Measure on more persons: give the evaluation split more images, or ask for fewer persons.",
        f"dataset.min_persons={onnx.fingerprint.num_persons}",
    )


def _drop(records: RunRecords) -> Iterator[Advice]:
    yield from _stronger_recipe(records)
    yield from _more_persons(records)


def _stronger_recipe(records: RunRecords) -> Iterator[Advice]:
    recipe = records.config.recipe
    if not recipe.cross_layer_equalization and records.config.model.architecture != "onnx":
        yield Advice(
            "Even out the weight ranges before calibration; depthwise networks gain most.",
            "recipe.cross_layer_equalization=true",
        )
    if recipe.granularity == "per_tensor":
        yield Advice("Give each output channel its own weight scale.", "recipe.granularity=per_channel")
    # Which one keeps more depends on the network: peaks of heatmaps are rare, and an average error may cut them off.
    if recipe.scheme == "min_max":
        yield Advice("Choose ranges by the least error instead of the extremes.", "recipe.scheme=tf_enhanced")
    else:
        yield Advice("Choose ranges by the extremes instead of the least error.", "recipe.scheme=min_max")
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


def _quantsim_gap(records: RunRecords) -> Iterator[Advice]:
    yield from _more_persons(records)
    yield Advice(
        "Compare the CPU features under Provenance with those of the machine that will serve the model: without VNNI, "
        "int8 products can saturate.",
    )


def _more_persons(records: RunRecords) -> Iterator[Advice]:
    protocol = records.onnx.fingerprint if records.onnx else None
    if protocol is not None and protocol.subset:
        yield _WHOLE_SPLIT
    elif protocol is not None and protocol.num_persons < FEW_PERSONS:
        uncertain = "some hundredths" if records.metric.key == "ap" else "several percentage points"
        yield Advice(
            f"Measure on more persons: {protocol.num_persons} leave {records.metric.name} uncertain by {uncertain}."
        )
    if records.onnx is not None and records.onnx.failed_images:
        yield Advice(
            f"Mend or replace the images that the report names: {unreadable_text(records.onnx)}, and their persons "
            "count as missed."
        )


def _int8_mac_share(records: RunRecords) -> Iterator[Advice]:
    if not records.config.recipe.four_phase_deconvolution:
        yield Advice(
            "Export transposed convolutions as ordinary ones, which have int8 kernels.",
            "recipe.four_phase_deconvolution=true",
        )
    floats = records.exported.placement.float_operators if records.exported else ()
    named = f": {', '.join(floats[:3])}" if floats else ""
    yield Advice(
        f"Look at the operators that stayed float{named}. An activation module that is used twice in the network keeps "
        "its layers float; a transposed convolution has no int8 kernel unless it is 4×4 with stride 2 and padding 1."
    )


def _saturation(records: RunRecords) -> Iterator[Advice]:
    if not records.config.recipe.saturation_free:
        yield Advice(
            "Choose weights whose sums fit: on x86-64 without VNNI those of full 8-bit weights saturate.",
            "recipe.saturation_free=true",
        )


def _kernel_proof(records: RunRecords) -> Iterator[Advice]:
    yield from _saturation(records)
    yield Advice(
        "Publish for processors with VNNI only, where sums have 32 bits; the function starts nowhere else.",
        "destination.processors=x86_64_vnni",
    )


def _kernel_sqnr(records: RunRecords) -> Iterator[Advice]:
    yield from _saturation(records)
    yield Advice("Compare the CPU features under Provenance with those of the machine that will serve the model.")


def _min_speedup(records: RunRecords) -> Iterator[Advice]:
    limit = records.config.gate.min_speedup
    latency = records.quantized_evaluation.latency if records.quantized_evaluation else None
    if limit is None or latency is None:
        return
    judged = latency.one_thread
    if judged.ratio_high >= limit:
        yield Advice(
            "Run the same again while the machine does nothing else: a measurement that is too noisy is not reused."
        )
    if records.exported and records.exported.placement.int8_mac_share < 1:
        yield from _int8_mac_share(records)
    yield Advice(
        f"This is {latency.processor} ({', '.join(latency.cpu_features)}): int8 gains most where there are VNNI "
        "instructions. Ask for what it can reach, or measure on such a machine.",
        f"gate.min_speedup={math.floor(100 * judged.ratio_low) / 100:g}",
    )


def _size_mb(records: RunRecords) -> Iterator[Advice]:
    size = megabytes_text(records.exported.model.size_bytes) if records.exported else "the file"
    if records.config.recipe.param_bw == 16:
        yield Advice("Use 8-bit weights.", "recipe.param_bw=8")
    yield Advice(f"Use a smaller network, or allow {size}.")


_ADVISERS: dict[str, Callable[[RunRecords], Iterator[Advice]]] = {
    "min_ap": _minimum,
    "min_pckh": _minimum,
    "max_ap_drop": _drop,
    "max_pckh_drop": _drop,
    "quantsim_gap": _quantsim_gap,
    "int8_mac_share": _int8_mac_share,
    **{f"kernel_proof_{processors}": _kernel_proof for processors in get_args(Processors)},
    "kernel_sqnr_db": _kernel_sqnr,
    "size_mb": _size_mb,
    "min_speedup": _min_speedup,
}
