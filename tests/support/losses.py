"""Where a network loses accuracy, as the steps of a run would record it."""

from __future__ import annotations

from typing import Any

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.records.comparison import SHIFTS_PX, JointShifts, PixelParity
from hpe_tasks.records.layers import LayerDiagnosis, LayerError


def shifts(same_cell: float = 0.9, least: float = 0.92, joints: int = 1200) -> JointShifts:
    steps = len(SHIFTS_PX) - 1
    within = tuple(least + (1 - least) * place / steps for place in range(steps + 1))
    return JointShifts(joints=joints, median_px=0.0, p99_px=2.25, largest_px=31.0, within=within, same_cell=same_cell)


PARITY = (
    PixelParity(between=("fp32", "quantsim"), crops=90, sure=shifts(), every=shifts(0.8, joints=1530)),
    PixelParity(between=("quantsim", "onnxruntime"), crops=90, sure=shifts(0.95), every=shifts(joints=1530)),
    PixelParity(between=("fp32", "onnxruntime"), crops=90, sure=None, every=shifts(0.875, joints=1530)),
)


def layer(name: str, alone: float, **fields: Any) -> LayerError:
    values = {"operator": "Conv", "low": 0.0, "high": 6.0, "float_low": 0.0, "float_high": 9.5, "range_db": 40.0}
    values |= {"alone_db": alone, "quantsim_db": 25.0, "file_db": 24.0, "parted_codes": 1}
    return LayerError(name=name, **(values | fields))


LAYERS = LayerDiagnosis(
    recipe=QuantizationRecipe(),
    num_images=8,
    layers=(
        layer("stem", 40.0),
        layer("up", 12.0, clipped=0.04, operator="Mul", saturated_quantsim=0.02, saturated_file=0.01),
        layer("fuse", 33.0, parted_codes=7, parted_share=0.25),
        layer("late", 36.0, parted_codes=3, parted_share=0.001),
        layer("maps", 30.0, low=None, high=None, range_db=None, parted_codes=None, operator="output"),
    ),
    unmatched=2,
)
