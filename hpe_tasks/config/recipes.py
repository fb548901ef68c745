"""Recipes that can be asked for by name."""

from __future__ import annotations

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.rungs import RUNGS

RECIPES: dict[str, QuantizationRecipe] = {
    "w8a8_per_channel": QuantizationRecipe(),
    # As the AIMET model zoo published its pose network.
    "w8a8_per_tensor": QuantizationRecipe(granularity="per_tensor"),
    # A search is asked for where little else was chosen: what the calibration split lacks is made up for.
    "auto": QuantizationRecipe(search="first", augment_calibration=True),
    "auto_best": QuantizationRecipe(search="best", augment_calibration=True),
    **{rung.name: rung.recipe(QuantizationRecipe()) for rung in RUNGS},
}
"""By name: whole recipes, the searches that climb the ladder of them, and each rung by itself."""
