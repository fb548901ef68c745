"""Recipes that can be asked for by name."""

from __future__ import annotations

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.rungs import RUNGS

RECIPES: dict[str, QuantizationRecipe] = {
    "w8a8_per_channel": QuantizationRecipe(),
    # As the AIMET model zoo published its pose network.
    "w8a8_per_tensor": QuantizationRecipe(granularity="per_tensor"),
    "auto": QuantizationRecipe(search="first"),
    "auto_best": QuantizationRecipe(search="best"),
    **{rung.name: rung.recipe(QuantizationRecipe()) for rung in RUNGS},
}
"""By name: whole recipes, the searches that climb the ladder of them, and each rung by itself."""
