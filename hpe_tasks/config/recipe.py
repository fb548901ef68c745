"""How a network is quantized."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hpe_tasks.config.base import Frozen

RangeScheme = Literal["min_max", "tf_enhanced", "percentile", "mse"]
"""How a range is chosen from the values seen: their extremes; the least error, in which a clipped value weighs three
times; all but the rarest at either end; the least squared error."""

Rounding = Literal["nearest", "seq_mse", "adaround"]

_RENAMED = {"four_phase_deconvolution": "subpixel_deconvolution"}
"""Settings by the names that older records have for them."""

SEARCH_SETTINGS = frozenset({"search", "search_minutes", "search_rungs"})
"""Settings that say how a recipe is found, and nothing of what it does."""


class QuantizationRecipe(Frozen):
    """How the network is quantized."""

    param_bw: Literal[4, 8, 16] = Field(default=8, description="Bit width of weights.")
    activation_bw: Literal[8, 16] = Field(default=8, description="Bit width of activations.")
    granularity: Literal["per_channel", "per_tensor"] = Field(
        default="per_channel", description="One weight scale for each output channel, or one for each tensor."
    )
    scheme: RangeScheme = Field(
        default="tf_enhanced",
        description="Range estimation: the extremes seen (`min_max`), all but the rarest values (`percentile`), the "
        "range of the least squared error (`mse`), or that with a threefold weight on what is clipped (`tf_enhanced`).",
    )
    weight_scheme: Literal["as_scheme", "min_max", "tf_enhanced", "percentile", "mse"] = Field(
        default="as_scheme",
        description="Range estimation of weights, where it is another than that of activations.",
    )
    percentile: float = Field(
        default=99.99,
        ge=90,
        le=100,
        description="Share of the values, in percent, that `percentile` leaves below the upper end of a range, and "
        "above the lower one.",
    )
    rounding: Rounding = Field(
        default="nearest",
        description="How weights get their codes: the nearest ones; the nearest ones in ranges that are chosen by the "
        "error of each layer's output (`seq_mse`); or up or down as that error asks (`adaround`). The latter two look "
        "at calibration images and take minutes.",
    )
    adaround_iterations: int = Field(
        default=500,
        ge=1,
        le=20_000,
        description="Steps of optimization for each layer with `rounding: adaround`.",
    )
    bias_correction: bool = Field(
        default=False,
        description="Correct the bias of each layer by the mean difference that quantization makes to its output, "
        "layer after layer, on calibration images.",
    )
    fold_batch_norms: bool = Field(
        default=True,
        description="Fold batch norms, scales and shifts into the layers before them, and leave out what does nothing.",
    )
    cross_layer_equalization: bool = Field(
        default=False, description="Even out the weight ranges of consecutive layers before calibration (CLE)."
    )
    channel_equalization: bool = Field(
        default=False,
        description="Even out channels that share the range of one activation, by factors that move into the weights "
        "around them where that is exact; over the whole graph, for ONNX files only.",
    )
    aimet_config: str | None = Field(
        default=None,
        description="AIMET quantization configuration (.json) in place of the recipe's own.",
    )
    calibration_images: int = Field(default=200, ge=1, le=10_000, description="Images to calibrate on.")
    augment_calibration: bool = Field(
        default=False,
        description="Where the calibration split has fewer images than `calibration_images`, fill up with changed "
        "copies: mirrored, turned, of other sizes and shifted.",
    )
    subpixel_deconvolution: bool = Field(
        default=True,
        description="Sub-pixel decomposition: export each 4x4 transposed convolution of stride 2 as the four "
        "convolutions that it is equal to. onnxruntime runs those in int8, and the transposed one in float.",
    )
    saturation_free: bool = Field(
        default=True,
        description="Choose 8-bit weights so that no processor's int8 kernel can clip a sum of their products, and the "
        "file computes the same on all of them. Without, x86-64 processors that lack VNNI may compute something else.",
    )
    distillation_steps: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Steps in which the quantized network learns what the float one gives (quantization-aware "
        "training), on calibration images that are moved and mirrored at random, without labels; 0 for none.",
    )
    distillation_batch: int = Field(
        default=16, ge=1, le=1024, description="Persons, or whole images, in one step of distillation."
    )
    distillation_learning_rate: float = Field(
        default=5e-4,
        gt=0,
        le=1,
        description="Highest learning rate of distillation, as a share of each tensor's range.",
    )
    distillation_labels: bool = Field(
        default=False,
        description="In distillation learn from the persons of `dataset.training_split` and their annotations as well: "
        "for networks that the project builds.",
    )
    joint_ranges: bool = Field(
        default=False,
        description="Search better ranges for the activations that 8 bits harm most: those of other schemes, narrower "
        "and wider ones, judged by what they do to the joints of calibration images.",
    )
    mixed_precision: bool = Field(
        default=False,
        description="Leave the activations in float that 8 bits harm most, as far as that pays: what each does to the "
        "joints and what float costs are measured on calibration images.",
    )
    max_slowdown: float = Field(
        default=2.0,
        gt=1,
        le=10,
        allow_inf_nan=False,
        description="With mixed_precision: how many times as long as int8 throughout the file may take, measured in "
        "onnxruntime on the processor that quantizes.",
    )

    search: Literal["off", "first", "best"] = Field(
        default="off",
        description="Climb the ladder of recipes from here, cheapest first: up to the `first` that passes the gate, or "
        "all of them for the `best` that passes. Bit widths, granularity and whatever else a rung does not change stay "
        "as they are set.",
    )
    search_minutes: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Begin no further rung of the ladder once those that were tried have taken this long together.",
    )
    search_rungs: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Climb these rungs of the ladder only, in its order; all by default."
    )

    @property
    def name(self) -> str:
        """Short name for reports, such as `w8a8_per_channel`; derived, so that it never claims another recipe.

        It tells every technique that is not the default's, and no amounts.
        """
        eight_bits = (self.param_bw, self.activation_bw) == (8, 8)
        techniques = {
            self.scheme: self.scheme != "tf_enhanced",
            f"{self.weight_ranges}_weights": self.weight_ranges != self.scheme,
            "not_folded": not self.fold_batch_norms,
            "cle": self.cross_layer_equalization,
            "even_channels": self.channel_equalization,
            self.rounding: self.rounding != "nearest",
            "bias_corrected": self.bias_correction,
            "augmented": self.augment_calibration,
            "full_range": eight_bits and not self.saturation_free,
            "qat": self.distillation_steps > 0 and not self.distillation_labels,
            "qat_labels": self.distillation_steps > 0 and self.distillation_labels,
            "joint_ranges": self.joint_ranges,
            "mixed": self.mixed_precision,
        }
        told = [technique for technique, used in techniques.items() if used]
        return "_".join([f"w{self.param_bw}a{self.activation_bw}", self.granularity, *told])

    def changed(self, **changes: Any) -> Self:
        """The recipe with other values of some settings, checked."""
        return type(self).model_validate(self.model_dump() | changes)

    @property
    def alone(self) -> Self:
        """The recipe without the search that it is the start of, or was the end of."""
        return self.changed(search="off", search_minutes=None, search_rungs=None)

    @property
    def weight_ranges(self) -> RangeScheme:
        """Range estimation of weights."""
        return self.scheme if self.weight_scheme == "as_scheme" else self.weight_scheme

    @property
    def ranges(self) -> str:
        """Range estimation in words, such as `tf_enhanced, of weights min_max`."""
        return self.scheme if self.weight_ranges == self.scheme else f"{self.scheme}, of weights {self.weight_ranges}"

    @property
    def looks_at_outputs(self) -> bool:
        """Whether weights or biases are chosen by what layers give for calibration images."""
        return self.rounding != "nearest" or self.bias_correction

    @property
    def keeps_sums_in_range(self) -> bool:
        """Whether weights are chosen for the integer kernels' sums; only 8-bit layers run in such kernels."""
        return self.saturation_free and (self.param_bw, self.activation_bw) == (8, 8)

    @model_validator(mode="before")
    @classmethod
    def _as_recorded_before(cls, values: Any) -> Any:
        """What older runs have recorded: a setting by its earlier name, and one that is gone where it was off."""
        if not isinstance(values, dict):
            return values
        recorded = {_RENAMED.get(key, key): value for key, value in values.items()}
        if recorded.get("reduce_range") is False:
            del recorded["reduce_range"]
        return recorded
