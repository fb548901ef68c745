"""What to try for a layer that loses much: settings that this run has not used, by what its figures say."""

from __future__ import annotations

from collections.abc import Iterator

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.gate.checks.base import Advice
from hpe_tasks.records.layers import LayerError

LITTLE_LOST_DB = 30.0
"""From here on noise is a thousandth of the signal: a layer that is no reason for anything."""

_MOSTLY_RANGE_DB = 3.0
"""With a range that leaves no more than this above the whole layer, at least half of the noise comes from it."""

_MANY_CLIPPED = 1e-3
_STEPS = 300


def layer_advice(layer: LayerError, recipe: QuantizationRecipe, *, from_file: bool) -> Advice:
    """The most promising thing to try for a layer.

    Args:
        layer: With a range of its own.
        recipe: How the network was quantized.
        from_file: Whether the network came as an ONNX file.
    """
    if layer.parted:
        return _agree(recipe)
    if layer.alone_db >= LITTLE_LOST_DB:
        return Advice("Little is lost here.")
    mostly_range = layer.range_db is not None and layer.range_db - layer.alone_db < _MOSTLY_RANGE_DB
    tried = _ranges(layer, recipe, from_file) if mostly_range else _weights(recipe, from_file)
    return next(tried, None) or next(
        _last(recipe), Advice("This recipe holds all that the project knows: train the network with its int8 in mind.")
    )


def _agree(recipe: QuantizationRecipe) -> Advice:
    if not recipe.saturation_free:
        return Advice(
            "The file computes here what QuantSim does not: keep its sums in range of every kernel.",
            "recipe.saturation_free=true",
        )
    return Advice("The file computes here what QuantSim does not: no range or rounding mends that. Report it.")


def _ranges(layer: LayerError, recipe: QuantizationRecipe, from_file: bool) -> Iterator[Advice]:
    """For noise that the range of the activation alone leaves."""
    if layer.clipped >= _MANY_CLIPPED and recipe.scheme != "min_max":
        yield Advice("Its range leaves out many values: choose ranges by the extremes.", "recipe.scheme=min_max")
    if layer.clipped < _MANY_CLIPPED and recipe.scheme == "min_max":
        yield Advice("Rare values stretch its range: choose ranges by the least error.", "recipe.scheme=tf_enhanced")
    if from_file and not recipe.channel_equalization:
        yield Advice("Even out the channels that share its range.", "recipe.channel_equalization=true")
    if not recipe.joint_ranges:
        yield Advice("Search its range by what it does to the joints.", "recipe.joint_ranges=true")


def _weights(recipe: QuantizationRecipe, from_file: bool) -> Iterator[Advice]:
    """For noise of the weights, and of what the layer is given."""
    if recipe.granularity == "per_tensor":
        yield Advice("Give each output channel its own weight scale.", "recipe.granularity=per_channel")
    if not recipe.cross_layer_equalization and not from_file:
        yield Advice("Even out its weights with those of the layers around it.", "recipe.cross_layer_equalization=true")
    if recipe.rounding == "nearest":
        yield Advice("Choose its weights by the error of its output.", "recipe.rounding=seq_mse")
    if not recipe.bias_correction:
        yield Advice("Correct the mean shift of its output.", "recipe.bias_correction=true")


def _last(recipe: QuantizationRecipe) -> Iterator[Advice]:
    """What helps wherever noise comes from, and costs more."""
    if not recipe.mixed_precision:
        yield Advice("Leave it in float, where that pays.", "recipe.mixed_precision=true")
    if not recipe.distillation_steps:
        yield Advice("Let the quantized network learn.", f"recipe.distillation_steps={_STEPS}")
