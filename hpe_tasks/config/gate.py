"""What a model must reach before it may be published."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import ConfigDict, Field, model_validator

from hpe_tasks.config.base import Frozen
from hpe_tasks.config.dataset import MetricKey


class GateLimits(Frozen):
    """What a model must reach before it may be published."""

    model_config = ConfigDict(allow_inf_nan=False)

    min_ap: float = Field(default=0.5, ge=0, le=1, description="Lowest COCO AP of the exported file.")
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
        if isinstance(values, dict) and values.get("metric") in get_args(MetricKey):
            return {key: value for key, value in values.items() if key != "metric"}
        return values
