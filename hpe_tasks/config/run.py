"""What a run is asked to do: one immutable, validated description that every step reads.

The trigger form in Airflow, the keys of `hpe run --set` and the configuration files are all generated from these
models, so a field's title, description and bounds are written here once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from hpe_tasks.datasets import KINDS, DatasetKind, GateMetric
from hpe_tasks.datasets.kind import named
from hpe_tasks.networks import ARCHITECTURES, NetworkArchitecture
from hpe_tasks.pose.codecs import CODECS, CodecName
from hpe_tasks.pose.skeletons import COCO17, EFFICIENTPOSE16, MPII16, Skeleton

SAMPLE = "sample"
"""As `dataset.source` or `model.checkpoint`: the data set and checkpoint that the project itself makes."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
JointPair = Annotated[str, StringConstraints(pattern=r"^[^:]+:[^:]+$")]
"""Two joints by their names, such as `left_ear:right_ear`."""

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]

if TYPE_CHECKING:
    ArchitectureName = str
else:
    # One of the listed names: the choices of forms and of --help.
    ArchitectureName = Literal[tuple(ARCHITECTURES)]

_LARGEST_STD = 1.01
"""1 leaves pixel values in [0, 1] as they are, and 256 / 255 is a pixel divided by 256: no network asks for less."""

_DIVIDED = "give mean and std of values in 0 to 255 divided by 255"


MODEL_SKELETONS: dict[str, Skeleton] = {
    known.name: known
    for known in (COCO17, MPII16, EFFICIENTPOSE16, *(kind.skeleton for kind in KINDS.values()))
    if known is not None
}
"""Joints that a network may predict, by the name that `model.skeleton` has for them."""

if TYPE_CHECKING:
    SkeletonName: TypeAlias = str
    KindName: TypeAlias = str
else:
    SkeletonName = Literal[tuple(MODEL_SKELETONS)]
    KindName = Literal[tuple(KINDS)]


class Frozen(BaseModel):
    """Immutable record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _pairs(texts: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((text.partition(":")[0], text.partition(":")[2]) for text in texts)


class ModelConfig(Frozen):
    """The pose network, where its weights come from, and how images must be presented to it."""

    model_config = ConfigDict(allow_inf_nan=False)

    architecture: ArchitectureName = Field(
        default="pose_mobilenet",
        description="A network that the project builds, or `onnx` for a file of your own.",
    )
    checkpoint: str = Field(
        min_length=1,
        description="Weights (.pth.tar, .pth, .safetensors, .onnx, or a .tgz with one of them): a file, an s3:// or "
        "http(s):// address, or `sample`.",
    )
    checkpoint_sha256: Sha256 | None = Field(default=None, description="SHA-256 that the checkpoint file must have.")
    skeleton: SkeletonName = Field(default="coco17", description="Joints that the network predicts, in channel order.")
    joint_names: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Joint names in channel order, where no skeleton fits; replaces `skeleton`.",
    )
    limbs: tuple[JointPair, ...] | None = Field(
        default=None,
        description="With `joint_names`: what is drawn between joints, each as `joint:joint`. By default the limbs of "
        "a data set of kind `custom`, or of `skeleton`.",
    )
    flip_pairs: tuple[JointPair, ...] | None = Field(
        default=None,
        description="With `joint_names`: joints that swap in a mirror image, each as `left:right`. By default those "
        "whose names differ in `left_` and `right_`.",
    )
    input_width: int = Field(default=192, ge=32, le=1024, description="Width of the network's input in pixels.")
    input_height: int = Field(
        default=256,
        ge=32,
        le=1024,
        description="Height of the network's input in pixels. With codec `paf` both are for images that are wider than "
        "high; the others are presented with the two swapped.",
    )
    channel_order: Literal["rgb", "bgr"] = Field(
        default="rgb",
        description="Order of the colour channels of the network's input: `bgr` for networks that were trained on "
        "images as OpenCV reads them. mean and std are in this order, too.",
    )
    mean: tuple[float, float, float] = Field(
        default=(0.485, 0.456, 0.406),
        description="For each channel, in channel_order: subtracted from pixel values in [0, 1].",
    )
    std: tuple[float, float, float] = Field(
        default=(0.229, 0.224, 0.225),
        description="For each channel, in channel_order: divides after the subtraction. A network that takes values "
        "from 0 to 255 has mean 0 and std 1/255 (0.00392).",
    )
    width_multiplier: float = Field(default=0.5, gt=0, le=2, description="Channel multiplier of pose_mobilenet.")
    caffe_style: bool = Field(
        default=False,
        description="Of a pose_resnet of 50 layers or more: stride 2 in the first 1x1 convolution of a bottleneck, as "
        "in Caffe, instead of in its 3x3. The checkpoint's names and shapes do not tell.",
    )
    input_layout: Literal["nchw", "nhwc"] = Field(default="nchw", description="Input layout of an `onnx` model.")
    output_layout: Literal["nchw", "nhwc"] = Field(
        default="nchw", description="Layout of the heatmaps of an `onnx` model: channels are joints."
    )
    output_name: str | None = Field(
        default=None, description="Output that holds the heatmaps of an `onnx` model with several outputs."
    )
    codec: CodecName = Field(
        default="heatmap",
        description="How people are read from the network's output: `heatmap`, one person in each crop; `simcc`, the "
        "same from one vector over x and one over y for each joint (SimCC, RTMPose); or `paf`, all people of the whole "
        "image from heatmaps and part-affinity fields.",
    )
    trained_on: str | None = Field(
        default=None,
        min_length=1,
        max_length=300,
        description="What the checkpoint was trained on, in a sentence for those who use the model: the manifest says "
        "it, and the page of `hpe serve` shows it. A checkpoint of `hpe train` says it by itself.",
    )

    @property
    def network(self) -> NetworkArchitecture:
        """The architecture, as the list of networks describes it."""
        return ARCHITECTURES[self.architecture]

    @property
    def joints(self) -> Skeleton:
        """The joints that the network predicts."""
        known = MODEL_SKELETONS[self.skeleton]
        if self.joint_names is None:
            return known
        limbs = known.limbs if self.limbs is None else _pairs(self.limbs)
        mirrored = None if self.flip_pairs is None else _pairs(self.flip_pairs)
        return Skeleton(name="custom", joints=self.joint_names, limbs=limbs, mirrored=mirrored)

    def drawn_as(self, skeleton: Skeleton | None) -> ModelConfig:
        """With the limbs of a data set's own joints, where this names its joints and no limbs."""
        if skeleton is None or self.joint_names is None or self.limbs is not None:
            return self
        limbs = tuple(f"{a}:{b}" for a, b in skeleton.limbs if a in self.joint_names and b in self.joint_names)
        return self.model_copy(update={"limbs": limbs})

    @property
    def input_size(self) -> tuple[int, int]:
        """(W, H) of the network's input in pixels; see `input_size_for` for whole images."""
        return self.input_width, self.input_height

    def input_size_for(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(W, H) of the network's input for an image of this (W, H), as the codec presents images."""
        return CODECS[self.codec].input_size_for(self.input_size, image_size)

    @field_validator("mean")
    @classmethod
    def _mean_of_pixels(cls, mean: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0 <= value <= 1 for value in mean):
            raise ValueError(f"it is subtracted from pixel values in [0, 1], so it lies in [0, 1] itself: {_DIVIDED}")
        return mean

    @field_validator("std")
    @classmethod
    def _std_of_pixels(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0 < value <= _LARGEST_STD for value in std):
            raise ValueError(f"it divides pixel values in [0, 1], so it is above 0 and at most 1: {_DIVIDED}")
        return std

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.joint_names is not None and len(set(self.joint_names)) != len(self.joint_names):
            raise ValueError("joint_names holds a name twice")
        for setting, pairs in (("limbs", self.limbs), ("flip_pairs", self.flip_pairs)):
            if pairs is not None and self.joint_names is None:
                raise ValueError(f"{setting} is for joint_names: a skeleton has its own")
            unknown = [pair for pair in pairs or () if not set(pair.split(":")) <= set(self.joint_names or ())]
            if unknown:
                raise ValueError(f"{setting} holds {unknown[0]!r}, and joint_names does not hold both of it")
        multiple = self.network.side_multiple
        if self.input_width % multiple or self.input_height % multiple:
            raise ValueError(f"input_width and input_height must be multiples of {multiple} for {self.architecture}")
        self._check_codec()
        if self.caffe_style and not self.network.caffe_style:
            wanted = ", ".join(name for name, network in ARCHITECTURES.items() if network.caffe_style)
            raise ValueError(f"caffe_style is for {wanted}, not for {self.architecture}")
        if self.checkpoint == SAMPLE and (
            self.network.sample_checkpoint is None or self.codec != self.network.codecs[0]
        ):
            fits = next(network for network in ARCHITECTURES.values() if network.sample_checkpoint)
            raise ValueError(
                f"checkpoint 'sample' holds a {fits.name} that gives heatmaps: set architecture to {fits.name} and "
                f"codec to {fits.codecs[0]}"
            )
        return self

    def _check_codec(self) -> None:
        codec, possible = CODECS[self.codec], self.network.codecs
        if self.codec not in possible:
            raise ValueError(f"codec must be {' or '.join(map(repr, possible))} for {self.architecture}")
        fixed = codec.skeleton
        if fixed is not None and (self.skeleton != fixed.name or self.joint_names is not None):
            raise ValueError(
                f"codec {self.codec!r} gives the joints of skeleton {fixed.name!r}: leave skeleton and joint_names out"
            )
        outputs = codec.outputs(len(self.joints.joints), self.input_size)
        if len(outputs) > 1 and self.output_name is not None:
            raise ValueError(
                f"codec {self.codec!r} reads {len(outputs)} outputs and finds them itself: leave output_name out"
            )


MetricKey = GateMetric
"""What a model is judged by: COCO's AP in [0, 1], or MPII's mean PCKh at 0.5 in percent."""


class DatasetConfig(Frozen):
    """A data set of people with labelled joints.

    COCO's layout is `images/<split>/` and `annotations/person_keypoints_<split>.json`; MPII's, in the form of Simple
    Baselines, `images/`, `annot/<split>.json` and `annot/gt_<split>.mat`; CrowdPose's `images/` and
    `json/crowdpose_<split>.json`; one with joints of its own has `annotations/<split>.json`, and its images in
    `images/<split>/` or `images/`.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    kind: KindName = Field(
        default="coco",
        description="Layout, joints and metric: COCO (OKS AP), MPII (PCKh), CrowdPose (OKS AP, also of easy, medium "
        "and hard images), or `custom`, COCO's layout with joints of its own.",
    )
    source: str = Field(
        min_length=1,
        description="A folder, a .zip or .tar(.gz) archive, an s3:// or http(s):// address of one; or `sample`. For "
        "MPII also the original annotation file (.mat).",
    )
    sha256: Sha256 | None = Field(default=None, description="SHA-256 that the data set's archive must have.")
    image_archives: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Addresses of archives with the images, where `source` holds the annotations only.",
    )
    images_by_url: bool = Field(
        default=False,
        description="Fetch only the images that the run needs, each from the address in its record (`coco_url`); "
        "`source` then holds the annotations only. `evaluation.num_images` does not lower their number.",
    )
    requests_per_second: float = Field(
        default=50.0, gt=0, le=1000, description="Most images that are asked for in a second with `images_by_url`."
    )
    boxes: str | None = Field(
        default=None,
        min_length=1,
        description="COCO results file (.json: a path or an address) with detected boxes of persons, for a top-down "
        "evaluation on COCO without the annotated boxes.",
    )
    valid_images: str | None = Field(
        default=None,
        min_length=1,
        description="With MPII's original annotation file: a text file (a path or an address) that names the images "
        "of the split `valid`, one file name on a line; without it a tenth of the videos is taken.",
    )
    calibration_split: str = Field(
        default="train2017",
        min_length=1,
        description="Split that calibration images are drawn from; `train` is the default for MPII.",
    )
    evaluation_split: str = Field(
        default="val2017",
        min_length=1,
        description="Split that metrics are measured on; `valid` is the default for MPII.",
    )
    evaluation_images: Literal["with_persons", "all"] = Field(
        default="with_persons",
        description="Images of the evaluation split that are measured. People found where nobody is count against a "
        "model only with `all`.",
    )
    min_persons: int = Field(
        default=50,
        ge=1,
        description="Fewest persons with visible joints that the evaluation split must hold, and that a model must be "
        "measured on to pass the gate: a smaller subset never does.",
    )

    @property
    def gate_metric(self) -> MetricKey:
        """The figure that a model is judged by on such data."""
        return self.described.gate_metric

    @property
    def described(self) -> DatasetKind:
        """What a data set of this kind is made of."""
        return KINDS[self.kind]

    @model_validator(mode="before")
    @classmethod
    def _usual_splits(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") in KINDS:
            calibration, evaluation = KINDS[values["kind"]].splits
            return {"calibration_split": calibration, "evaluation_split": evaluation, **values}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.images_by_url and self.image_archives is not None:
            raise ValueError("images_by_url and image_archives exclude one another: choose one")
        if self.source == SAMPLE and (self.images_by_url or self.image_archives is not None):
            raise ValueError("the sample brings its own images: leave images_by_url and image_archives out")
        self._refuse_unfit("source 'sample' is", self.source == SAMPLE, lambda kind: kind.is_drawn)
        self._refuse_unfit("images_by_url is", self.images_by_url, lambda kind: kind.has_addresses)
        self._refuse_unfit("boxes are", self.boxes is not None, lambda kind: kind.takes_detections)
        self._refuse_unfit("valid_images is", self.valid_images is not None, lambda kind: bool(kind.layout.originals))
        return self

    def _refuse_unfit(self, setting: str, given: bool, fits: Callable[[DatasetKind], bool]) -> None:
        if given and not fits(self.described):
            raise ValueError(f"{setting} for kind {named(filter(fits, KINDS.values()))}, not for {self.kind!r}")


class QuantizationRecipe(Frozen):
    """How the network is quantized."""

    param_bw: Literal[4, 8, 16] = Field(default=8, description="Bit width of weights.")
    activation_bw: Literal[8, 16] = Field(default=8, description="Bit width of activations.")
    granularity: Literal["per_channel", "per_tensor"] = Field(
        default="per_channel", description="One weight scale for each output channel, or one for each tensor."
    )
    scheme: Literal["min_max", "tf_enhanced"] = Field(
        default="tf_enhanced",
        description="Range estimation: the extremes seen, or the range of the least expected quantization error.",
    )
    fold_batch_norms: bool = Field(default=True, description="Fold batch norms into the convolutions before them.")
    cross_layer_equalization: bool = Field(
        default=False, description="Even out the weight ranges of consecutive layers before calibration (CLE)."
    )
    aimet_config: str | None = Field(
        default=None,
        description="AIMET quantization configuration (.json) in place of the recipe's own.",
    )
    calibration_images: int = Field(default=200, ge=1, le=10_000, description="Images to calibrate on.")
    four_phase_deconvolution: bool = Field(
        default=True,
        description="Export each 4x4 transposed convolution of stride 2 as the four convolutions that it is equal to: "
        "onnxruntime runs those in int8, and the transposed one in float.",
    )
    saturation_free: bool = Field(
        default=True,
        description="Choose 8-bit weights so that no processor's int8 kernel can clip a sum of their products, and the "
        "file computes the same on all of them. Without, x86-64 processors that lack VNNI may compute something else.",
    )

    @property
    def name(self) -> str:
        """Short name for reports, such as `w8a8_per_channel`; derived, so that it never claims another recipe."""
        equalized = "_cle" if self.cross_layer_equalization else ""
        full = "_full_range" if (self.param_bw, self.activation_bw) == (8, 8) and not self.saturation_free else ""
        return f"w{self.param_bw}a{self.activation_bw}_{self.granularity}{equalized}{full}"

    @property
    def keeps_sums_in_range(self) -> bool:
        """Whether weights are chosen for the integer kernels' sums; only 8-bit layers run in such kernels."""
        return self.saturation_free and (self.param_bw, self.activation_bw) == (8, 8)

    @model_validator(mode="before")
    @classmethod
    def _without_reduce_range(cls, values: Any) -> Any:
        """The setting that 7 bits of weights used to be asked for by: off, it is what older runs have recorded."""
        if isinstance(values, dict) and values.get("reduce_range") is False:
            return {key: value for key, value in values.items() if key != "reduce_range"}
        return values


RECIPES: dict[str, QuantizationRecipe] = {
    "w8a8_per_channel": QuantizationRecipe(),
    # As the AIMET model zoo published its pose network.
    "w8a8_per_tensor": QuantizationRecipe(granularity="per_tensor"),
}


class EvaluationConfig(Frozen):
    """How accuracy is measured."""

    num_images: int | None = Field(
        default=None, ge=1, description="Measure on a seeded subset of this many images: a quick look, marked as one."
    )
    batch_size: int = Field(
        default=16, ge=1, le=512, description="Persons (with codec `paf`: images) in one forward pass."
    )
    flip_test: bool = Field(
        default=False,
        description="Average what the network gives for each crop with what it gives for its mirror image: slower, a "
        "little more accurate.",
    )
    max_failed_images: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Largest share of images that may turn out unreadable or unlike their records. Their persons count "
        "as missed, and the report names them; with more the step fails.",
    )


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


Processors = Literal["any", "x86_64", "arm64", "x86_64_vnni"]
"""Where a published model may be served."""


class DestinationConfig(Frozen):
    """Where a model that passes is published."""

    registry: str = Field(
        default="s3://hpe-models/registry",
        pattern=r"^s3://[^/]+(/.*)?$",
        description="Bucket and prefix of the model registry.",
    )
    name: Slug = Field(default="pose", description="Name of the model in the registry.")
    channel: Slug = Field(default="staging", description="Channel that is moved to the new version.")
    processors: Processors = Field(
        default="any",
        description="Processors that may serve the model: `any`, `x86_64` or `arm64` ask for proof that no int8 kernel "
        "there can clip a sum; `x86_64_vnni` asks for none, and the function starts such a model on a processor with "
        "VNNI only.",
    )
    smoke_test: bool = Field(
        default=False,
        description="Before the channel moves, build the Lambda package, run it in the Runtime Interface Emulator on "
        "this machine, and compare what it finds in the golden images with what was measured. Those images, up to "
        "three of the evaluation split, are uploaded to the registry with the version.",
    )
    require_signature: bool = Field(
        default=False,
        description="Publish only with an Ed25519 signature over the manifest: see docs/registry.md on signing keys.",
    )


class RunConfig(Frozen):
    """Everything that decides what a run produces."""

    schema_version: Literal[1] = 1
    preset: str = Field(default="custom", description="The preset that the run started from.")
    model: ModelConfig
    dataset: DatasetConfig
    recipe: QuantizationRecipe = QuantizationRecipe()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateLimits = GateLimits()
    destination: DestinationConfig = DestinationConfig()
    seed: int = Field(default=0, ge=0, description="Seed of the calibration draw and of every subset.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dataset.calibration_split == self.dataset.evaluation_split:
            raise ValueError(
                f"dataset.calibration_split and dataset.evaluation_split are both {self.dataset.evaluation_split!r}: "
                "a model must not be calibrated on the images that judge it"
            )
        codec = CODECS[self.model.codec]
        kind = self.dataset.described
        if codec.whole_images and not (kind.takes_detections and self.dataset.boxes is None):
            raise ValueError(f"codec {codec.name!r} finds people in whole images of a COCO data set: no boxes, no MPII")
        if self.evaluation.flip_test and not codec.takes_flip_test:
            raise ValueError(f"evaluation.flip_test is not for codec {codec.name!r}")
        return self
