"""What a model must reach before it may be published."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import ConfigDict, Field, model_validator

from hpe_tasks.config.base import Frozen
from hpe_tasks.datasets import GateMetric


class GateLimits(Frozen):
    """What a model must reach before it may be published."""

    model_config = ConfigDict(allow_inf_nan=False)

    min_ap: float = Field(default=0.5, ge=0, le=1, description="Lowest AP of the exported file.")
    max_ap_drop: float = Field(
        default=0.02, ge=0, le=1, description="Largest loss of AP from the FP32 model to the exported file."
    )
    max_quantsim_gap: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Largest difference in AP, either way, between QuantSim and the file.",
    )
    min_pckh: float = Field(
        default=50.0, ge=0, le=100, description="Lowest mean PCKh of the exported file, in percent."
    )
    max_pckh_drop: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="Largest loss of mean PCKh from the FP32 model to the exported file, in percentage points.",
    )
    max_quantsim_pckh_gap: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="Largest difference in mean PCKh, either way, between QuantSim and the file, in percentage points.",
    )
    max_joint_drop: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest loss of AP over the joints of any one group (wrists, knees, ...); empty: max_ap_drop.",
    )
    max_joint_pckh_drop: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Largest loss of PCKh of any one group of joints, in percentage points; empty: max_pckh_drop.",
    )
    max_size_drop: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Largest loss of AP among persons of medium or large size alone, or in images of one level of "
        "crowding; empty: max_ap_drop.",
    )
    confidence: float | None = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        description="A loss is within its limit when the whole interval of this confidence is, from a paired bootstrap "
        "over images, and beyond it when the whole interval is; in between the gate is inconclusive. Empty: figures "
        "are judged alone.",
    )
    resamples: int = Field(default=10_000, ge=200, le=1_000_000, description="Resamples of the images for an interval.")
    max_looks: int = Field(
        default=3,
        ge=1,
        le=10,
        description="With `evaluation.num_images`: how often the loss of accuracy may be looked at. Where the first "
        "images are too few to tell, more of the split are measured, and the error is shared among the looks.",
    )
    min_int8_mac_share: float = Field(
        default=0.5, ge=0, le=1, description="Smallest share of convolution multiply-accumulates that run in int8."
    )
    min_kernel_sqnr_db: float = Field(
        default=40.0,
        ge=0,
        le=200,
        description="Smallest signal-to-noise ratio, in dB, of what onnxruntime's int8 kernels compute in any layer on "
        "this CPU, against the same layer without optimizations: sums that saturate take it far down.",
    )
    max_size_mb: float = Field(default=40.0, gt=0, description="Largest size of the exported file in MB (1e6 bytes).")
    min_speedup: float | None = Field(
        default=None,
        gt=0,
        description="How many times as fast as FP32 the exported file must be in onnxruntime with one thread on the "
        "machine that measures; empty: not judged. A measurement that is too noisy to tell fails.",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_metric(cls, values: Any) -> Any:
        """The setting that repeated which figure the data set is judged by: older runs have it recorded."""
        if isinstance(values, dict) and values.get("metric") in get_args(GateMetric):
            return {key: value for key, value in values.items() if key != "metric"}
        return values
