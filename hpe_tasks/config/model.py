"""The pose network that a run is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator

from hpe_tasks.config.base import SAMPLE, Frozen, Sha256
from hpe_tasks.datasets import KINDS
from hpe_tasks.networks import ARCHITECTURES, NetworkArchitecture
from hpe_tasks.pose.codecs import CODECS, CodecName
from hpe_tasks.pose.skeletons import COCO17, EFFICIENTPOSE16, MPII16, Skeleton

JointPair = Annotated[str, StringConstraints(pattern=r"^[^:]+:[^:]+$")]
"""Two joints by their names, such as `left_ear:right_ear`."""

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
else:
    SkeletonName = Literal[tuple(MODEL_SKELETONS)]


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
