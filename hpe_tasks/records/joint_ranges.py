"""Which activations got another range than their estimator's, because joints are nearer to FP32's with it."""

from __future__ import annotations

from hpe_tasks.config.base import Frozen

Range = tuple[float, float]


class ChosenRange(Frozen):
    """An activation with another range.

    Attributes:
        tensors: The names that the quantizer has in the stored encodings.
        operator: What computes it, such as `Conv+Relu`.
        layer: Name of the first of these nodes.
        before: Least and largest value with a code, as the recipe's scheme estimated them.
        after: The same as chosen.
        harm_before: What the activation does when it alone is quantized and all others are float: the joint error, and
            a twentieth of the outputs' noise.
        harm_after: The same with the chosen range.
    """

    tensors: tuple[str, ...]
    operator: str
    layer: str
    before: Range
    after: Range
    harm_before: float
    harm_after: float


class JointRanges(Frozen):
    """How ranges were chosen by the joints; the joint error is that of `hpe_tasks.records.mixed_precision`.

    Attributes:
        chosen: Those that changed, the most harmful first.
        looked_at: Activations whose ranges were searched.
        error_before: Joint error with every activation quantized in the range of its scheme.
        error_after: The same with the chosen ones.
        images: Crops, or whole images, that single activations were judged on.
        confirmed_on: Those that the choices were confirmed on, the former among them.
        evaluations: How often the network was run on either.
        seconds: What the search took.
    """

    chosen: tuple[ChosenRange, ...]
    looked_at: int
    error_before: float
    error_after: float
    images: int
    confirmed_on: int
    evaluations: int
    seconds: float
