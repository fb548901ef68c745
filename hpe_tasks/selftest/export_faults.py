"""Faults of the exported file's arithmetic: what runs in float, and sums that may leave their range."""

from __future__ import annotations

from typing import Any

from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.step import Step
from hpe_tasks.records.base import Record
from hpe_tasks.selftest.bench import Bench
from hpe_tasks.selftest.fault import Ruling, check_refused
from hpe_tasks.selftest.measured_file import described
from hpe_tasks.selftest.onnx_edits import leave_activation_float

_FEW_IMAGES = 3


def float_activation(bench: Bench) -> Ruling:
    """One activation lacks its quantizer, in front of a layer with much arithmetic."""
    file = leave_activation_float(bench.exported_file(), bench.new_folder("float") / "model.onnx")
    instead = {steps.export_onnx: described(bench, file)}
    return check_refused(steps.gate(bench.planted_run("float", steps.gate, instead=instead)), "int8_mac_share")


def saturated_kernels(bench: Bench) -> Ruling:
    """Weights take the whole of 8 bits, whose sums clip on x86-64 without VNNI."""
    settings = {"recipe.saturation_free": False, "recipe.calibration_images": _FEW_IMAGES}
    quantizing = bench.planted_run("full-range", steps.quantize, settings=settings)
    quantized = steps.quantize(quantizing)
    exported = steps.export_onnx(quantizing)
    instead: dict[Step[Any], Record] = {steps.quantize: quantized, steps.export_onnx: exported}
    run = bench.planted_run("full-range", steps.gate, instead=instead)
    return check_refused(steps.gate(run), f"kernel_proof_{run.config.destination.processors}")
