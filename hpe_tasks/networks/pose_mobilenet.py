"""A small pose network for Lambda: MobileNetV2 and three depthwise deconvolutions.

Backbone: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), Table 2, without its last
1280-channel convolution.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from hpe_tasks.errors import ConfigError

HEAD_CHANNELS = 128


class _Stage(NamedTuple):
    expansion: int
    channels: int
    repeats: int
    stride: int


_STAGES = (
    _Stage(1, 16, 1, 1),
    _Stage(6, 24, 2, 2),
    _Stage(6, 32, 3, 2),
    _Stage(6, 64, 4, 2),
    _Stage(6, 96, 3, 1),
    _Stage(6, 160, 3, 2),
    _Stage(6, 320, 1, 1),
)
_STEM_CHANNELS = 32


class InvertedResidual(nn.Module):
    """Widen by a 1×1 convolution, filter each channel by itself, and project back without an activation."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [nn.Conv2d(channels_in, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N×C×H×W to N×C'×H/stride×W/stride."""
        out: torch.Tensor = self.layers(x)
        return x + out if self.residual else out


class PoseMobileNet(nn.Module):
    """MobileNetV2 at stride 32, then three depthwise deconvolutions to heatmaps at a quarter of the input.

    Args:
        joints: Number of heatmaps.
        width_multiplier: Factor on the backbone's channels, which are not rounded up to a multiple of 8.

    Raises:
        ConfigError: The multiplier leaves a layer without channels.
    """

    def __init__(self, joints: int, *, width_multiplier: float = 0.5) -> None:
        super().__init__()
        self.features, channels = backbone(width_multiplier)
        self.head = upsampling(channels, doublings=3)
        self.heatmaps = nn.Conv2d(HEAD_CHANNELS, joints, 1)
        initialize(self)
        # Heatmaps are zero nearly everywhere: start there.
        nn.init.normal_(self.heatmaps.weight, std=0.001)
        if self.heatmaps.bias is not None:
            nn.init.zeros_(self.heatmaps.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalized images N×3×H×W to heatmaps N×J×H/4×W/4."""
        heatmaps: torch.Tensor = self.heatmaps(self.head(self.features(images)))
        return heatmaps


def backbone(width_multiplier: float) -> tuple[nn.Sequential, int]:
    """MobileNetV2 at stride 32, and how many channels it gives.

    Raises:
        ConfigError: The multiplier leaves a layer without channels.
    """
    if int(min(stage.channels for stage in _STAGES) * width_multiplier) < 1:
        raise ConfigError(
            f"model.width_multiplier {width_multiplier} leaves a layer of pose_mobilenet without channels.",
            hint="Use 0.0625 or more.",
        )
    channels = int(_STEM_CHANNELS * width_multiplier)
    features: list[nn.Module] = [
        nn.Conv2d(3, channels, 3, 2, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
    ]
    for stage in _STAGES:
        wanted = int(stage.channels * width_multiplier)
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            features.append(InvertedResidual(channels, wanted, stride=stride, expansion=stage.expansion))
            channels = wanted
    return nn.Sequential(*features), channels


def upsampling(channels: int, *, doublings: int) -> nn.Sequential:
    """Depthwise deconvolutions, each of which doubles height and width, to `HEAD_CHANNELS` channels."""
    head: list[nn.Module] = _pointwise(channels, HEAD_CHANNELS)
    for _ in range(doublings):
        head += [
            nn.ConvTranspose2d(HEAD_CHANNELS, HEAD_CHANNELS, 4, 2, 1, groups=HEAD_CHANNELS, bias=False),
            nn.BatchNorm2d(HEAD_CHANNELS),
            nn.ReLU(),
            *_pointwise(HEAD_CHANNELS, HEAD_CHANNELS),
        ]
    return nn.Sequential(*head)


def initialize(network: nn.Module) -> None:
    """Give convolutions their weights at the start of a training."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.ConvTranspose2d):
            # Each channel starts as bilinear upsampling, whose kernel at stride 2 is (1, 3, 3, 1)/4.
            ramp = torch.tensor([0.25, 0.75, 0.75, 0.25])
            with torch.no_grad():
                module.weight.copy_(torch.outer(ramp, ramp).expand_as(module.weight))


def _pointwise(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()]
