"""The pose networks that the project builds, by architecture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from hpe_tasks.config.run import ModelConfig
from hpe_tasks.errors import ConfigError
from hpe_tasks.networks.aimet_pose import AimetPose
from hpe_tasks.networks.pose_mobilenet import PoseMobileNet
from hpe_tasks.networks.pose_resnet import LAYERS, PoseResNet

__all__ = ["MODELS", "build_model"]


def _resnet(depth: int) -> Callable[[ModelConfig], nn.Module]:
    return lambda config: PoseResNet(depth, len(config.joints.joints), caffe_style=config.caffe_style)


def _mobilenet(config: ModelConfig) -> nn.Module:
    return PoseMobileNet(len(config.joints.joints), width_multiplier=config.width_multiplier)


def _aimet_pose(_: ModelConfig) -> nn.Module:
    # Its joints are fixed. The first stage's maps are for training.
    return AimetPose(last_stage_only=True)


MODELS: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "aimet_pose": _aimet_pose,
    "pose_mobilenet": _mobilenet,
    **{f"pose_resnet_{depth}": _resnet(depth) for depth in LAYERS},
}


def build_model(config: ModelConfig) -> nn.Module:
    """Build a network with random weights, float32 and in evaluation mode.

    It takes normalized images N×3×H×W and gives heatmaps N×J×H/4×W/4, one for each joint of `config.joints`;
    `aimet_pose` gives part-affinity fields N×38×H/8×W/8 and heatmaps N×19×H/8×W/8, those of its last stage. No module
    is used twice in a forward pass: AIMET would leave the second use unquantized.

    Raises:
        ConfigError: The architecture is not built here, as `onnx`.
    """
    if config.architecture not in MODELS:
        raise ConfigError(
            f"model.architecture {config.architecture!r} is not a network that the project builds.",
            hint=f"It builds {', '.join(sorted(MODELS))}; an `onnx` model is read from its file.",
        )
    model = MODELS[config.architecture](config)
    return model.to(torch.float32).eval()
