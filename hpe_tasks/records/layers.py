"""Where accuracy is lost: FP32, QuantSim and the exported file, compared layer by layer."""

from __future__ import annotations

from hpe_tasks.config.base import Frozen
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.records.base import Record

LARGEST_DB = 120.0
"""Signal-to-noise ratios end here: beyond, what float32 cannot tell apart counts as noise."""

PARTED_CODES = 1
"""QuantSim and file may differ by so many codes in a layer that is given the same input: a value half-way between two
codes may be rounded to either."""


class LayerError(Frozen):
    """A quantized activation, or an output, of the network on some images; FP32's values are the signal.

    Attributes:
        name: Of the layer, as the simulation has it.
        operator: What computes it, such as `Conv` or `Relu`.
        low: Smallest value that its codes hold; None for an output that stays float.
        high: Largest one.
        float_low: FP32's smallest value.
        float_high: FP32's largest value.
        clipped: Share of FP32's values that lie beyond its range by more than half a step.
        saturated_quantsim: Share of QuantSim's codes at an end of the range; at zero, where a range begins, none are.
        saturated_file: The same of the file.
        range_db: Signal-to-noise ratio of FP32's values in these codes: what the range alone leaves.
        alone_db: That of the file's layer when its inputs are FP32's values in their codes: what this layer alone
            leaves, with its weights and the ranges of what it is given.
        quantsim_db: That of QuantSim's values, whose errors have gathered from all layers before.
        file_db: That of the file's values.
        parted_codes: Largest difference, in codes, between QuantSim's values and what the file's layer makes of
            QuantSim's own inputs; for an output that stays float, of nothing.
        parted_share: Share of them that differ by more than `PARTED_CODES`.
    """

    name: str
    operator: str
    low: float | None
    high: float | None
    float_low: float
    float_high: float
    clipped: float = 0.0
    saturated_quantsim: float = 0.0
    saturated_file: float = 0.0
    range_db: float | None = None
    alone_db: float
    quantsim_db: float
    file_db: float
    parted_codes: int | None = None
    parted_share: float = 0.0

    @property
    def parted(self) -> bool:
        """Whether the file computes in this layer what QuantSim does not."""
        return self.parted_codes is not None and self.parted_codes > PARTED_CODES


class LayerDiagnosis(Record):
    """What quantization does to each layer of a network, in the order of its graph.

    Attributes:
        recipe: How it was quantized.
        num_images: Calibration images, or crops, that the layers were compared on.
        layers: Outputs come last.
        unmatched: Quantized activations of the file of which the simulation has no counterpart.
        reason: Why no layer could be compared; empty where some were.
    """

    recipe: QuantizationRecipe
    num_images: int
    layers: tuple[LayerError, ...] = ()
    unmatched: int = 0
    reason: str = ""

    @property
    def first_parted(self) -> LayerError | None:
        """The first layer at which QuantSim and the file part."""
        return next((layer for layer in self.layers if layer.parted), None)

    @property
    def worst(self) -> tuple[LayerError, ...]:
        """Layers by what they lose of themselves, most first."""
        return tuple(sorted((layer for layer in self.layers if layer.low is not None), key=lambda one: one.alone_db))
