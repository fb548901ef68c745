"""Mixed precision that pays: the activations that 8 bits harm most stay in float, within a latency that was measured.

onnxruntime runs 16-bit activations in float, so an activation has 8 bits or is float. Everything is judged on real
files: the calibrated simulation is exported, pairs of quantizers are taken out, and what is left runs in onnxruntime.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.contract.cpu import available_threads
from hpe_tasks.errors import QuantizationError
from hpe_tasks.joint_search.bench import IMAGES, JointBench, first_images
from hpe_tasks.joint_search.search import NEGLIGIBLE, Harm, Order, find_order
from hpe_tasks.joint_search.turns import median_ratio, take_turns
from hpe_tasks.onnx_export.float_activations import Activation, with_floats
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.onnx_runtime.session import single_run
from hpe_tasks.quantization import QuantizedFiles
from hpe_tasks.quantization import leave_float as leave_stored_float
from hpe_tasks.records.mixed_precision import ActivationEffect, MixedPrecision, PrecisionPoint

_MOST_POINTS = 8
"""Files on the way from int8 throughout to all that is needed in float, both included."""

_CLOSE = 0.1
"""Share of what is to be won within the budget that the fastest of the good choices may leave."""

Timing = Callable[[Sequence[Callable[[], object]]], list[list[float]]]
"""Seconds that each network takes, by rounds; see `take_turns`."""


@dataclass(frozen=True)
class Budget:
    """What a choice may cost.

    Attributes:
        max_slowdown: How many times as long as int8 throughout it may take.
        min_speedup: How many times as fast as FP32 it has to be, where that is asked.
        min_int8_mac_share: Share of the multiply-accumulates that has to stay int8.
    """

    max_slowdown: float
    min_speedup: float | None = None
    min_int8_mac_share: float = 0.0

    def allows(self, point: PrecisionPoint) -> bool:
        """Whether a file may be chosen."""
        most_of_fp32 = math.inf if self.min_speedup is None else 1 / self.min_speedup
        return (
            point.slowdown <= self.max_slowdown
            and point.of_fp32 <= most_of_fp32
            and point.int8_mac_share >= self.min_int8_mac_share
        )

    @property
    def told(self) -> str:
        """In words, with the names of the settings."""
        speed = [] if self.min_speedup is None else [f"gate.min_speedup {self.min_speedup:g}"]
        share = [f"gate.min_int8_mac_share {self.min_int8_mac_share:g}"] if self.min_int8_mac_share else []
        return ", ".join([f"recipe.max_slowdown {self.max_slowdown:g}", *speed, *share])


def choose_precision(
    config: ModelConfig,
    recipe: QuantizationRecipe,
    checkpoint: Path,
    files: QuantizedFiles,
    batches: Iterable[NDArray[np.float32]],
    budget: Budget,
    *,
    timing: Timing = take_turns,
) -> MixedPrecision:
    """Find out what has to stay float, choose as much of it as pays, and change the stored simulation so.

    Args:
        config: The network.
        recipe: As it was quantized.
        checkpoint: Its weights in FP32, or its float ONNX file.
        files: The calibrated simulation, with every activation quantized; changed where it lies, at the end.
        batches: Calibration images, as they were calibrated on; the first `IMAGES` of the bench are looked at.
        budget: What the choice may cost.
        timing: Takes the times.

    Raises:
        QuantizationError: Something would be won by float, and nothing of it within the budget.
    """
    began = time.monotonic()
    with TemporaryDirectory(prefix="mixed-precision-", dir=files.model.parent) as folder:
        bench = JointBench(config, recipe, checkpoint, files, first_images(batches, IMAGES), Path(folder))
        order = find_order(bench.activations, bench.evaluate)
        threads = available_threads()
        curve = _measure(bench, order, threads, timing)
    chosen = _choose(curve, order, budget)
    leave_stored_float(config, files, curve[chosen].left_float)
    effects = tuple(_effect(bench.activations[index], harm) for harm in order.harms for index in harm.activations)
    return MixedPrecision(
        effects=effects,
        curve=tuple(curve),
        chosen=chosen,
        int8_error=order.int8_error,
        float_error=order.float_error,
        max_slowdown=budget.max_slowdown,
        images=sum(map(len, bench.images)),
        evaluations=order.evaluations,
        seconds=time.monotonic() - began,
        threads=threads,
    )


def _measure(bench: JointBench, order: Order, threads: int, timing: Timing) -> list[PrecisionPoint]:
    """Points of the curve, int8 throughout first."""
    counts = _counts(len(order.needed))
    choices = [with_floats(bench.activations, _indices(order.needed[:count])) for count in counts]
    paths = [bench.write(floats, f"{count}.onnx") for count, floats in zip(counts, choices, strict=True)]
    image = bench.images[0][0]
    rounds = timing([single_run(path, bench.config, image, threads=threads)[0] for path in (bench.fp32, *paths)])
    return [
        PrecisionPoint(
            float_tensors=count,
            float_layers=_layers(bench.activations, order.needed[:count]),
            left_float=tuple(sorted(name for index in floats for name in bench.activations[index].encodings)),
            joint_error=bench.judge(path)[0],
            slowdown=median_ratio(rounds, index, 1),
            of_fp32=median_ratio(rounds, index, 0),
            int8_mac_share=audit_placement(path).int8_mac_share,
        )
        for index, (count, floats, path) in enumerate(zip(counts, choices, paths, strict=True), start=1)
    ]


def _counts(needed: int) -> list[int]:
    """How many of the needed ones the points have: none, all, and some between, closer where they are few."""
    steps = min(needed, _MOST_POINTS - 1)
    return sorted({round(needed * (step / steps) ** 1.5) if steps else 0 for step in range(steps + 1)} | {needed})


def _indices(harms: Iterable[Harm]) -> list[int]:
    return [index for harm in harms for index in harm.activations]


def _layers(activations: Sequence[Activation], harms: Iterable[Harm]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(activations[index].layer for index in _indices(harms)))


def _choose(curve: Sequence[PrecisionPoint], order: Order, budget: Budget) -> int:
    """The fastest of those that win nearly as much as any within the budget."""
    if not order.needed:
        return 0
    affordable = [index for index, point in enumerate(curve) if index and budget.allows(point)]
    best = min((curve[index].joint_error for index in affordable), default=math.inf)
    if best > order.int8_error - NEGLIGIBLE:
        cheapest = min(curve[1:], key=lambda point: point.slowdown)
        raise QuantizationError(
            f"No choice of float activations wins anything within {budget.told}: the fastest, with "
            f"{cheapest.float_tensors}, takes {cheapest.slowdown:.2f} times as long as int8 throughout and "
            f"{cheapest.of_fp32:.2f} times as long as FP32, has {100 * cheapest.int8_mac_share:.0f} % of the "
            f"arithmetic in int8 and a joint error of {cheapest.joint_error:.3f}, int8 throughout one of "
            f"{order.int8_error:.3f}.",
            hint="Allow a larger recipe.max_slowdown, a slower file or less int8 in the gate, or set "
            "recipe.mixed_precision to false.",
        )
    enough = best + _CLOSE * (order.int8_error - best)
    return min(
        (index for index in affordable if curve[index].joint_error <= enough), key=lambda index: curve[index].slowdown
    )


def _effect(activation: Activation, harm: Harm) -> ActivationEffect:
    return ActivationEffect(
        tensors=activation.encodings,
        operator=activation.operator,
        layer=activation.layer,
        joint_error=harm.joint_error,
        output_noise=harm.noise,
    )
