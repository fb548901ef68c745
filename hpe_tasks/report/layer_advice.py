"""What to try for a layer that loses much: the rungs that address it, by what its figures say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.gate.checks.base import Advice
from hpe_tasks.records.layers import LayerError

LITTLE_LOST_DB = 30.0
"""From here on noise is a thousandth of the signal: a layer that is no reason for anything."""

_MOSTLY_RANGE_DB = 3.0
"""With a range that leaves no more than this above the whole layer, at least half of the noise comes from it."""

_MANY_CLIPPED = 1e-3
_STEPS = 300


@dataclass(frozen=True)
class Remedy:
    """A setting that addresses what a layer loses.

    Attributes:
        rung: Of the ladder, which tries it; empty where none does.
        used: Whether the recipe has it already.
    """

    rung: str
    advice: Advice
    used: bool


def layer_advice(layer: LayerError, recipe: QuantizationRecipe, *, from_file: bool) -> Remedy:
    """The most promising thing to try for a layer.

    Args:
        layer: With a range of its own.
        recipe: How the network was quantized.
        from_file: Whether the network came as an ONNX file.
    """
    if layer.parted:
        return Remedy("", _agree(recipe), False)
    if layer.alone_db >= LITTLE_LOST_DB:
        return Remedy("", Advice("Little is lost here."), False)
    nothing = Advice("This recipe holds all that the project knows: train the network with its int8 in mind.")
    left = (remedy for remedy in remedies(layer, recipe, from_file=from_file) if not remedy.used)
    return next(left, Remedy("", nothing, False))


def remedies(layer: LayerError, recipe: QuantizationRecipe, *, from_file: bool) -> Iterator[Remedy]:
    """All that addresses what a layer loses of itself, most promising first; nothing where little is lost.

    Args:
        layer: With a range of its own.
        recipe: How the network was quantized.
        from_file: Whether the network came as an ONNX file.
    """
    if layer.alone_db >= LITTLE_LOST_DB:
        return
    mostly_range = layer.range_db is not None and layer.range_db - layer.alone_db < _MOSTLY_RANGE_DB
    yield from _ranges(layer, recipe, from_file) if mostly_range else _weights(recipe, from_file)
    yield from _last(recipe, from_file)


def _agree(recipe: QuantizationRecipe) -> Advice:
    if not recipe.saturation_free:
        return Advice(
            "The file computes here what QuantSim does not: keep its sums in range of every kernel.",
            "recipe.saturation_free=true",
        )
    return Advice("The file computes here what QuantSim does not: no range or rounding mends that. Report it.")


def _ranges(layer: LayerError, recipe: QuantizationRecipe, from_file: bool) -> Iterator[Remedy]:
    """For noise that the range of the activation alone leaves."""
    if layer.clipped >= _MANY_CLIPPED:
        extremes = Advice("Its range leaves out many values: choose ranges by the extremes.", "recipe.scheme=min_max")
        yield Remedy("min_max", extremes, recipe.scheme == "min_max")
    elif recipe.scheme == "min_max":
        least = Advice("Rare values stretch its range: choose ranges by the least error.", "recipe.scheme=tf_enhanced")
        yield Remedy("tf_enhanced", least, used=False)
    if from_file:
        even = Advice("Even out the channels that share its range.", "recipe.channel_equalization=true")
        yield Remedy("even_channels", even, recipe.channel_equalization)
    search = Advice("Search its range by what it does to the joints.", "recipe.joint_ranges=true")
    yield Remedy("joint_ranges", search, recipe.joint_ranges)


def _weights(recipe: QuantizationRecipe, from_file: bool) -> Iterator[Remedy]:
    """For noise of the weights, and of what the layer is given."""
    per_channel = Advice("Give each output channel its own weight scale.", "recipe.granularity=per_channel")
    yield Remedy("", per_channel, recipe.granularity == "per_channel")
    if not from_file:
        equalize = Advice(
            "Even out its weights with those of the layers around it.", "recipe.cross_layer_equalization=true"
        )
        yield Remedy("equalized", equalize, recipe.cross_layer_equalization)
    rounding = Advice("Choose its weights by the error of its output.", "recipe.rounding=seq_mse")
    yield Remedy("seq_mse", rounding, recipe.rounding != "nearest")
    shift = Advice("Correct the mean shift of its output.", "recipe.bias_correction=true")
    yield Remedy("bias_corrected", shift, recipe.bias_correction)


def _last(recipe: QuantizationRecipe, from_file: bool) -> Iterator[Remedy]:
    """What helps wherever noise comes from, and costs more."""
    spare = Advice("Leave it in float, where that pays.", "recipe.mixed_precision=true")
    yield Remedy("mixed", spare, recipe.mixed_precision)
    learn = Advice("Let the quantized network learn.", f"recipe.distillation_steps={_STEPS}")
    yield Remedy("distilled", learn, recipe.distillation_steps > 0)
    if not from_file:
        labels = Advice(
            "Let it learn from the annotations of dataset.training_split, too.", "recipe.distillation_labels=true"
        )
        yield Remedy("distilled_labels", labels, recipe.distillation_labels)
