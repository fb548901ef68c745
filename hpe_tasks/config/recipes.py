"""Recipes that can be asked for by name."""

from __future__ import annotations

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.rungs import RUNGS

_FILLED_UP = QuantizationRecipe(augment_calibration=True)
"""What the ladder starts from: with little to calibrate on, changed copies of it are more than nothing."""

RECIPES: dict[str, QuantizationRecipe] = {
    "w8a8_per_channel": QuantizationRecipe(),
    # As the AIMET model zoo published its pose network.
    "w8a8_per_tensor": QuantizationRecipe(granularity="per_tensor"),
    "auto": _FILLED_UP.changed(search="first"),
    "auto_best": _FILLED_UP.changed(search="best"),
    **{rung.name: rung.recipe(_FILLED_UP) for rung in RUNGS},
}
"""By name: whole recipes, the searches that climb the ladder of them, and each rung by itself."""
