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
import onnx
from numpy.typing import NDArray

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.contract.cpu import available_threads
from hpe_tasks.errors import QuantizationError
from hpe_tasks.mixed_precision.joints import JointError
from hpe_tasks.mixed_precision.search import NEGLIGIBLE, Harm, Order, find_order
from hpe_tasks.mixed_precision.turns import median_ratio, take_turns
from hpe_tasks.models.fp32_onnx import export_fp32
from hpe_tasks.onnx_export import fit_kernels, simulated_graph
from hpe_tasks.onnx_export.float_activations import Activation, activations_of, leave_float, stored_codes, with_floats
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.onnx_runtime.session import onnx_predictor, single_run
from hpe_tasks.quantization import QuantizedFiles
from hpe_tasks.quantization import leave_float as leave_stored_float
from hpe_tasks.records.mixed_precision import ActivationEffect, MixedPrecision, PrecisionPoint

__all__ = ["Budget", "Timing", "check_widths", "choose_precision"]

IMAGES = 24
"""Calibration crops, or whole images, that joints are compared on."""

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


def check_widths(recipe: QuantizationRecipe) -> None:
    """Raise QuantizationError unless the recipe leaves a choice between 8 bits and float."""
    if (recipe.param_bw, recipe.activation_bw) != (8, 8):
        raise QuantizationError(
            f"recipe.mixed_precision chooses between 8 bits and float; with {recipe.param_bw}-bit weights and "
            f"{recipe.activation_bw}-bit activations onnxruntime runs everything in float.",
            hint="Set recipe.param_bw and recipe.activation_bw to 8, or recipe.mixed_precision to false.",
        )


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
        batches: Calibration images, as they were calibrated on; the first `IMAGES` are looked at.
        budget: What the choice may cost.
        timing: Takes the times.

    Raises:
        QuantizationError: Something would be won by float, and nothing of it within the budget.
    """
    began = time.monotonic()
    with TemporaryDirectory(prefix="mixed-precision-", dir=files.model.parent) as folder:
        bench = _Bench(config, recipe, checkpoint, files, _first(batches, IMAGES), Path(folder))
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


class _Bench:
    """The graph whose activations are left in float, and the images that it is judged on."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: QuantizationRecipe,
        checkpoint: Path,
        files: QuantizedFiles,
        images: list[NDArray[np.float32]],
        folder: Path,
    ) -> None:
        self.config = config
        self.images = images
        self.fp32 = export_fp32(config, checkpoint, folder / "fp32.onnx")
        self._recipe = recipe
        self._folder = folder
        self._graph = simulated_graph(config, recipe, files.model, files.encodings)
        self.activations = activations_of(self._graph, stored_codes(files.encodings))
        is_onnx = files.model.suffix == ".onnx"
        self._biases = {t.name: t for t in onnx.load(files.model).graph.initializer} if is_onnx else {}
        self._joints = JointError(config, images, self._outputs(self.fp32))

    def write(self, floats: Iterable[int], name: str = "tried.onnx") -> Path:
        """The file with these activations in float, as `export_onnx` would write it."""
        tensors = [tensor for index in sorted(floats) for tensor in self.activations[index].tensors]
        graph = leave_float(self._graph, tensors, self._biases)
        fit_kernels(graph, self.config, self._recipe)
        path = self._folder / name
        onnx.save(graph, path)
        return path

    def evaluate(self, floats: frozenset[int]) -> tuple[float, float]:
        return self.judge(self.write(floats))

    def judge(self, path: Path) -> tuple[float, float]:
        """Joint error and noise of a written file."""
        return self._joints.of(self._outputs(path))

    def _outputs(self, path: Path) -> list[dict[str, NDArray[np.float32]]]:
        predict = onnx_predictor(path, self.config)
        return [predict(batch) for batch in self.images]


def _first(batches: Iterable[NDArray[np.float32]], count: int) -> list[NDArray[np.float32]]:
    taken: list[NDArray[np.float32]] = []
    for batch in batches:
        left = count - sum(map(len, taken))
        if left <= 0:
            break
        taken.append(batch[:left])
    if not taken:
        raise QuantizationError("There is no calibration image to choose the precision on.")
    return taken


def _measure(bench: _Bench, order: Order, threads: int, timing: Timing) -> list[PrecisionPoint]:
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
