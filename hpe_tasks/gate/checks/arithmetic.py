"""Checks of the exported file's arithmetic: that it runs in int8, and computes the same wherever it is served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from typing_extensions import override

from hpe_tasks.config.run import Processors
from hpe_tasks.gate.accuracy import TOLERANCE
from hpe_tasks.gate.checks.base import Advice, Evidence, Observation, Requirement, Situation

_NEEDED_PROOFS: dict[Processors, tuple[str, ...]] = {
    "any": ("x86-64", "arm64"),
    "x86_64": ("x86-64",),
    "arm64": ("arm64",),
    "x86_64_vnni": (),
}
"""What a destination needs of `KernelProof.families`."""

_NAMED_FLOAT_OPERATORS = 3


class Int8Share(Requirement):
    """How much of the arithmetic really runs in int8."""

    title = "Arithmetic that runs in int8"
    comparison = "at_least"
    unit = "share"
    names = ("int8_mac_share",)

    @override
    def subject(self, evidence: Evidence) -> str:
        return "Int8 share of multiply-accumulates"

    @override
    def limit(self, evidence: Evidence) -> float:
        return evidence.limits.min_int8_mac_share

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        placement = evidence.exported.placement
        problem = ""
        if placement.total_macs <= 0:
            problem = "The int8 share is unknown: the audit found no convolution or matrix product in the exported file"
        slow = placement.float_operators[:_NAMED_FLOAT_OPERATORS]
        too_low = placement.int8_mac_share < limit - TOLERANCE
        note = f"still float: {', '.join(slow)}" if too_low and slow else ""
        return Observation(placement.int8_mac_share, problem, note)

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        return more_int8(run)


class UnclippedSums(Requirement):
    """That no kernel of the destination's processors can clip a sum, whatever the image."""

    title = "Layers whose int8 sums could be clipped"
    comparison = "at_most"
    unit = "layers"
    names = tuple(f"kernel_proof_{processors}" for processors in get_args(Processors))

    @override
    def name(self, evidence: Evidence) -> str:
        return f"kernel_proof_{evidence.processors}"

    @override
    def subject(self, evidence: Evidence) -> str:
        return "Number of layers whose sums may leave their range"

    @override
    def limit(self, evidence: Evidence) -> float:
        return 0

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        exported, needed = evidence.exported, _NEEDED_PROOFS[evidence.processors]
        proof = exported.proof
        if not needed:
            reason = "No proof is needed: the model is for x86-64 with VNNI only, whose kernels add in 32 bits"
            return Observation(0.0, verdict=(True, reason))
        if proof is None:
            return Observation(
                None, "Nothing is proved of the exported file's int8 kernels: run the step export_onnx again"
            )
        if proof.model_sha256 != exported.model.sha256:
            return Observation(
                None, "The proof is of another file than the exported one: run the step export_onnx again"
            )
        families = {name: proof.families[name] for name in needed}
        layers = max(family.unproved_layers for family in families.values())
        if not layers:
            named = " and ".join(needed)
            reason = f"No sum of {proof.channels:,} channels in {proof.layers} layers can leave its range on {named}"
            return Observation(0.0, verdict=(True, reason))
        unproved = [f"on {name} {family.unproved[0]}" for name, family in families.items() if family.unproved]
        reason = f"Sums may leave their range in {layers} of {proof.layers} layers: {'; '.join(unproved)}"
        return Observation(float(layers), verdict=(False, reason))

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        yield from _no_saturation(run)
        yield Advice(
            "Publish for processors with VNNI only, where sums have 32 bits; the function starts nowhere else.",
            "destination.processors=x86_64_vnni",
        )


class AgreeingKernels(Requirement):
    """That the int8 kernels of the processor at hand compute what the file says."""

    title = "Agreement of int8 kernels with the unoptimized graph"
    comparison = "at_least"
    unit = "dB"
    names = ("kernel_sqnr_db",)

    @override
    def subject(self, evidence: Evidence) -> str:
        return "Signal-to-noise ratio of int8 kernels"

    @override
    def limit(self, evidence: Evidence) -> float:
        return evidence.limits.min_kernel_sqnr_db

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        kernels = evidence.quantized.kernels
        if kernels is None:
            return Observation(None, "The signal-to-noise ratio of int8 kernels is unknown: they were not compared")
        if kernels.sqnr_db is None:
            reason = f"The int8 kernels compute the same as the unoptimized graph on {kernels.num_images} inputs"
            return Observation(None, verdict=(True, reason))
        note = ""
        if kernels.sqnr_db < limit - TOLERANCE:
            note = (
                f"in {kernels.layer}: sums of full 8-bit weights saturate on x86-64 without VNNI, see "
                f"recipe.saturation_free; this processor is {', '.join(kernels.cpu_features)}"
            )
        return Observation(kernels.sqnr_db, note=note)

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        yield from _no_saturation(run)
        yield Advice("Compare the CPU features under Provenance with those of the machine that will serve the model.")


CHECKS: tuple[Requirement, ...] = (Int8Share(), UnclippedSums(), AgreeingKernels())


def more_int8(run: Situation) -> Iterator[Advice]:
    """What brings more of the arithmetic into int8."""
    if not run.config.recipe.subpixel_deconvolution:
        yield Advice(
            "Export transposed convolutions by sub-pixel decomposition, as ordinary ones, which have int8 kernels.",
            "recipe.subpixel_deconvolution=true",
        )
    floats = run.exported.placement.float_operators if run.exported else ()
    named = f": {', '.join(floats[:_NAMED_FLOAT_OPERATORS])}" if floats else ""
    yield Advice(
        f"Look at the operators that stayed float{named}. An activation module that is used twice in the network keeps "
        "its layers float; a transposed convolution has no int8 kernel unless it is 4×4 with stride 2 and padding 1."
    )


def _no_saturation(run: Situation) -> Iterator[Advice]:
    if not run.config.recipe.saturation_free:
        yield Advice(
            "Choose weights whose sums fit: on x86-64 without VNNI those of full 8-bit weights saturate.",
            "recipe.saturation_free=true",
        )
