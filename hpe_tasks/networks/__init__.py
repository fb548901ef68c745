"""The pose networks that the project knows: one list, which says all that the rest of it asks about any of them.

A network of the project's own is a module of this package, layers only, and one entry of the list. The list itself is
read by the configuration, in forms and by `hpe --help`: torch is imported when a network is built, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpe_tasks.pose.codecs import CODECS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ARCHITECTURES", "OWN_FILE", "NetworkArchitecture", "NetworkOptions"]

OWN_FILE = "onnx"
"""Name of the architecture that is the user's own ONNX file."""


@dataclass(frozen=True)
class NetworkOptions:
    """What a run may choose about a network; each builder takes what concerns it.

    Attributes:
        joints: Number of joints.
        input_size: (W, H) of the input in pixels.
        codec: How people are read from the output; one of the architecture's.
        width_multiplier: Factor on channels.
        caffe_style: Whether bottlenecks have their stride in the first 1×1 convolution.
        all_stages: Whether a network of several stages gives the maps of all of them, as a training needs.
    """

    joints: int
    input_size: tuple[int, int] = (192, 256)
    codec: str = "heatmap"
    width_multiplier: float = 0.5
    caffe_style: bool = False
    all_stages: bool = False


Build = Callable[[NetworkOptions], "nn.Module"]


@dataclass(frozen=True)
class NetworkArchitecture:
    """A network that a run may name, and what distinguishes it from others.

    Attributes:
        name: As `model.architecture` names it.
        build: Makes it with random weights; None where nothing is built: the checkpoint is the network.
        codecs: How people can be read from its output.
        side_multiple: What both sides of its input are a multiple of, in pixels.
        input: How it takes images, and settings that follow from it, where they differ from the defaults of
            `ModelConfig`.
        caffe_style: Whether `model.caffe_style` is one of its settings.
        head: Names of the modules that give the outputs; the others are its backbone.
        sample_checkpoint: The file in `hpe_tasks/assets` that `model.checkpoint=sample` means; None where there is
            none.
    """

    name: str
    build: Build | None
    codecs: tuple[str, ...] = ("heatmap",)
    side_multiple: int = 32
    input: Mapping[str, Any] = field(default_factory=dict)
    caffe_style: bool = False
    head: tuple[str, ...] = ()
    sample_checkpoint: str | None = None

    @property
    def from_file(self) -> bool:
        """Whether the checkpoint is the network itself, an ONNX file: aimet_onnx quantizes it, onnxruntime runs it."""
        return self.build is None


def _pose_resnet(depth: int, *, bottlenecks: bool) -> NetworkArchitecture:
    def build(options: NetworkOptions) -> nn.Module:
        from hpe_tasks.networks.pose_resnet import PoseResNet

        return PoseResNet(depth, options.joints, caffe_style=options.caffe_style)

    head = ("deconv_layers", "final_layer")
    return NetworkArchitecture(f"pose_resnet_{depth}", build, caffe_style=bottlenecks, head=head)


def _pose_hrnet(width: int) -> NetworkArchitecture:
    def build(options: NetworkOptions) -> nn.Module:
        from hpe_tasks.networks.pose_hrnet import PoseHRNet

        return PoseHRNet(width, options.joints)

    return NetworkArchitecture(f"pose_hrnet_w{width}", build, head=("stage4", "final_layer"))


def _pose_mobilenet(options: NetworkOptions) -> nn.Module:
    from hpe_tasks.networks.pose_mobilenet import PoseMobileNet
    from hpe_tasks.networks.simcc_mobilenet import SimccMobileNet

    width = options.width_multiplier
    heads: Mapping[str, Callable[[], nn.Module]] = {
        "heatmap": lambda: PoseMobileNet(options.joints, width_multiplier=width),
        "simcc": lambda: SimccMobileNet(options.joints, options.input_size, width_multiplier=width),
    }
    return heads[options.codec]()


def _aimet_pose(options: NetworkOptions) -> nn.Module:
    from hpe_tasks.networks.aimet_pose import AimetPose

    # Its joints are fixed.
    return AimetPose(last_stage_only=not options.all_stages)


_LISTED = (
    _pose_resnet(18, bottlenecks=False),
    _pose_resnet(34, bottlenecks=False),
    _pose_resnet(50, bottlenecks=True),
    _pose_resnet(101, bottlenecks=True),
    _pose_resnet(152, bottlenecks=True),
    _pose_hrnet(32),
    _pose_hrnet(48),
    NetworkArchitecture(
        "pose_mobilenet",
        _pose_mobilenet,
        codecs=("heatmap", "simcc"),
        head=("head", "heatmaps", "maps", "simcc_x", "simcc_y"),
        sample_checkpoint="pose_mobilenet_sample.safetensors",
    ),
    NetworkArchitecture(
        "aimet_pose",
        _aimet_pose,
        codecs=("paf",),
        side_multiple=8,
        head=("pre_stage", "stage1_shared", "stage1_1", "stage1_2", "stage2_shared", "stage2_1", "stage2_2"),
        # x / 256 − 0.5 of values up to 255, as OpenPose takes images.
        input={"codec": "paf", "mean": (128 / 255,) * 3, "std": (256 / 255,) * 3},
    ),
    NetworkArchitecture(OWN_FILE, None, codecs=tuple(CODECS), side_multiple=1),
)

ARCHITECTURES: Mapping[str, NetworkArchitecture] = {network.name: network for network in _LISTED}
"""Every architecture by its name, in the order in which they are offered."""
