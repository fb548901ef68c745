"""The rungs of the ladder: recipes to try, cheapest first.

Each is a recipe of its own, which can also be asked for by its name. One more rung is one more entry of RUNGS.

Nothing is imported here, because `hpe --help` lists the rungs without loading what they are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpe_tasks.config.recipe import QuantizationRecipe

    Change = Callable[[QuantizationRecipe], QuantizationRecipe]


@dataclass(frozen=True)
class Rung:
    """A recipe on the ladder.

    Attributes:
        name: Of its recipe in RECIPES; its step is called `try_` and this.
        summary: What it does, in a sentence.
        change: Makes the rung's recipe of what the user has set.
    """

    name: str
    summary: str
    change: Change

    @property
    def step(self) -> str:
        """Name of the step that tries it."""
        return f"try_{self.name}"

    def recipe(self, base: QuantizationRecipe) -> QuantizationRecipe:
        """The rung's recipe: with the bit widths, the granularity and whatever else the user has set and it leaves."""
        return self.change(base.alone)


def _with(**settings: Any) -> Change:
    return lambda base: base.changed(**settings)


RUNGS: tuple[Rung, ...] = (
    Rung(
        "min_max",
        "Calibrate by the extremes: the ranges of weights and activations hold every value that was seen.",
        _with(scheme="min_max", weight_scheme="as_scheme"),
    ),
    Rung(
        "mse",
        "Calibrate by the least squared error: what is cut off counts no more than what is rounded.",
        _with(scheme="mse", weight_scheme="as_scheme"),
    ),
    Rung(
        "tf_enhanced",
        "Calibrate by the least error: ranges may cut off rare values where that keeps the others more exact.",
        _with(scheme="tf_enhanced", weight_scheme="as_scheme"),
    ),
    Rung(
        "min_max_weights",
        "Calibrate activations by the least error and weights by their extremes.",
        _with(scheme="tf_enhanced", weight_scheme="min_max"),
    ),
    Rung(
        "percentile",
        "Calibrate activations by all but their rarest values, and weights by their extremes.",
        _with(scheme="percentile", weight_scheme="min_max"),
    ),
    Rung(
        "equalized",
        "Even out the weight ranges of consecutive layers (CLE), then calibrate by the least error.",
        _with(scheme="tf_enhanced", weight_scheme="as_scheme", cross_layer_equalization=True),
    ),
    Rung(
        "even_channels",
        "Even out the channels that share one range, over the whole graph of an ONNX file, then calibrate by the least "
        "squared error.",
        _with(scheme="mse", weight_scheme="as_scheme", channel_equalization=True),
    ),
    Rung(
        "bias_corrected",
        "Calibrate by the least squared error, then correct each layer's bias by what quantization did to its output.",
        _with(scheme="mse", weight_scheme="as_scheme", bias_correction=True),
    ),
    Rung(
        "seq_mse",
        "Choose the range of each weight channel by the error of its layer's output (SeqMSE).",
        _with(scheme="mse", weight_scheme="as_scheme", rounding="seq_mse"),
    ),
    Rung(
        "adaround",
        "Round each weight up or down as the error of its layer's output asks (AdaRound).",
        _with(scheme="mse", weight_scheme="as_scheme", rounding="adaround"),
    ),
    Rung(
        "joint_ranges",
        "Search the ranges of the activations that 8 bits harm most by what they do to the joints.",
        _with(scheme="mse", weight_scheme="as_scheme", joint_ranges=True),
    ),
    Rung(
        "even_joint_ranges",
        "Even out the channels that share one range (ONNX files), then search ranges by what they do to the joints.",
        _with(scheme="mse", weight_scheme="as_scheme", channel_equalization=True, joint_ranges=True),
    ),
    Rung(
        "mixed",
        "Leave the activations in float that 8 bits harm most, as far as the measured time allows.",
        _with(scheme="mse", weight_scheme="as_scheme", mixed_precision=True),
    ),
    Rung(
        "distilled",
        "Let the quantized network learn what the float one gives (QAT without labels); long without a GPU.",
        _with(scheme="mse", weight_scheme="as_scheme", distillation_steps=300, distillation_labels=False),
    ),
    Rung(
        "distilled_labels",
        "Let the quantized network learn from the annotations of `dataset.training_split` as well (QAT with labels).",
        _with(scheme="mse", weight_scheme="as_scheme", distillation_steps=300, distillation_labels=True),
    ),
)
"""Cheapest first, the order in which they are tried; of those that cost about the same, that first which won most in
docs/benchmarks.md, but for the plain extremes."""
