"""Checks of what the exported file costs to serve: its size and its speed."""

from __future__ import annotations

import math
from collections.abc import Iterator

from typing_extensions import override

from hpe_tasks.gate.accuracy import UNITS, megabytes_text
from hpe_tasks.gate.checks.arithmetic import more_int8
from hpe_tasks.gate.checks.base import Advice, Evidence, Observation, Requirement, Situation
from hpe_tasks.records.execution import LatencyComparison

_BYTES_PER_MB = 1e6


class FileSize(Requirement):
    """The size of the exported file."""

    title = "Size of the exported file"
    comparison = "at_most"
    unit = "MB"
    names = ("size_mb",)

    @override
    def subject(self, evidence: Evidence) -> str:
        return "Size"

    @override
    def limit(self, evidence: Evidence) -> float:
        return evidence.limits.max_size_mb

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        size = evidence.exported.model.size_bytes
        problem = "" if size > 0 else f"The size of the exported file is unknown: {size} bytes are recorded"
        return Observation(size / _BYTES_PER_MB, problem)

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        size = megabytes_text(run.exported.model.size_bytes) if run.exported else "the file"
        if run.config.recipe.param_bw == 16:
            yield Advice("Use 8-bit weights.", "recipe.param_bw=8")
        yield Advice(f"Use a smaller network, or allow {size}.")


class SpeedAgainstFp32(Requirement):
    """Its speed with one thread: what a small Lambda function has, and least disturbed by what else a machine does."""

    title = "Speed against FP32"
    comparison = "at_least"
    unit = "times"
    names = ("min_speedup",)

    @override
    def subject(self, evidence: Evidence) -> str:
        return "Speed with one thread, against FP32,"

    @override
    def limit(self, evidence: Evidence) -> float | None:
        return evidence.limits.min_speedup

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        latency = evidence.quantized.latency
        if latency is None:
            return Observation(None, "The speed against FP32 is unknown: it was not measured")
        judged, shown = latency.one_thread, UNITS["times"]
        if not tells_speed(limit, latency):
            interval = f"95 % interval {shown.text(judged.ratio_low)} to {shown.text(judged.ratio_high)}"
            reason = (
                f"{self.subject(evidence)} is too noisy to tell: {shown.text(judged.ratio)}, {interval}, where at "
                f"least {shown.text(limit)} is asked"
            )
            return Observation(judged.ratio, verdict=(False, reason))
        return Observation(judged.ratio, note=f"± {100 * judged.noise:.0f} % on {latency.processor}")

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        limit, latency = run.config.gate.min_speedup, run.latency
        if limit is None or latency is None:
            return
        judged = latency.one_thread
        if judged.ratio_high >= limit:
            yield Advice(
                "Run the same again while the machine does nothing else: a measurement that is too noisy is not reused."
            )
        if run.exported and run.exported.placement.int8_mac_share < 1:
            yield from more_int8(run)
        yield Advice(
            f"This is {latency.processor} ({', '.join(latency.cpu_features)}): int8 gains most where there are VNNI "
            "instructions. Ask for what it can reach, or measure on such a machine.",
            f"gate.min_speedup={math.floor(100 * judged.ratio_low) / 100:g}",
        )


CHECKS: tuple[Requirement, ...] = (FileSize(), SpeedAgainstFp32())


def tells_speed(limit: float, latency: LatencyComparison | None) -> bool:
    """Whether the file's speed is known, and its noise leaves no doubt on which side of the limit it is."""
    if latency is None:
        return False
    judged = latency.one_thread
    return judged.ratio_low >= limit or judged.ratio_high < limit
