"""Which activations were left in float, what each of them does to the joints, and what float costs."""

from __future__ import annotations

from hpe_tasks.config.base import Frozen


class ActivationEffect(Frozen):
    """What happens when this activation alone is quantized, and all others are left in float.

    Attributes:
        tensors: The names that the quantizer has in the stored encodings.
        operator: What computes it, such as `Conv+Relu`.
        layer: Name of the first of these nodes.
        joint_error: How much more the joints move; see `MixedPrecision`.
        output_noise: Squared error of the network's outputs that it adds, relative to their squared values.
    """

    tensors: tuple[str, ...]
    operator: str
    layer: str
    joint_error: float
    output_noise: float


class PrecisionPoint(Frozen):
    """One choice of what stays in float, as a real file.

    Attributes:
        float_tensors: How many activations were chosen.
        float_layers: Their layers, those first that win most for what they cost.
        left_float: Quantizers that are off, by their names in the encodings: theirs, and those between them.
        joint_error: See `MixedPrecision`.
        slowdown: Median of its time over that of the file that is int8 throughout, in one run.
        of_fp32: The same over FP32's time; below 1 is faster than FP32.
        int8_mac_share: Of the multiply-accumulates, those that onnxruntime runs in int8.
    """

    float_tensors: int
    float_layers: tuple[str, ...]
    left_float: tuple[str, ...]
    joint_error: float
    slowdown: float
    of_fp32: float
    int8_mac_share: float


class MixedPrecision(Frozen):
    """How it was chosen which activations stay in float.

    The joint error is the mean over the joints of calibration crops of 1 - exp(-d² / 2s²), weighted by FP32's scores:
    d is how far the joint lies from where FP32 has it, s a fixed share of the crop's longer side. For networks of whole
    images it is 1 less the share of FP32's people that are found again, each by as much.

    Attributes:
        effects: Of every activation, the most harmful first.
        curve: What was measured, from int8 throughout to the most float.
        chosen: Which of them the file is.
        int8_error: Joint error with every activation quantized.
        float_error: With none: only weights are.
        max_slowdown: The budget.
        images: Crops, or whole images, that the error was measured on.
        evaluations: How often the network was run on them.
        seconds: What the search took.
        threads: Threads that the times were taken with.
    """

    effects: tuple[ActivationEffect, ...]
    curve: tuple[PrecisionPoint, ...]
    chosen: int
    int8_error: float
    float_error: float
    max_slowdown: float
    images: int
    evaluations: int
    seconds: float
    threads: int

    @property
    def left_float(self) -> tuple[str, ...]:
        """Quantizers that are off in the file."""
        return self.curve[self.chosen].left_float
