"""The network of Simple Baselines: a ResNet and three deconvolutions.

Source: Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking" (2018). Parameter names are those of
its published checkpoints.
"""

from __future__ import annotations

import torch
from torch import nn

LAYERS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks in each of the four stages, by depth."""

_FIRST_BOTTLENECK_DEPTH = 50
_DECONV_CHANNELS = 256


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.downsample = _shortcut(channels_in, channels * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N×C×H×W to N×C'×H/stride×W/stride."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        result: torch.Tensor = self.relu2(out + shortcut)
        return result


class Bottleneck(nn.Module):
    """A 3×3 convolution between two 1×1 convolutions, beside a shortcut.

    Args:
        channels_in: Channels of the input.
        channels: Channels of the 3×3 convolution; the output has four times as many.
        stride: Stride of the block.
        stride_first: Whether the stride lies in the first 1×1 convolution, as in Caffe, or in the 3×3 convolution.
    """

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int, *, stride_first: bool) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_first else (1, stride)
        self.conv1 = nn.Conv2d(channels_in, channels, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu3 = nn.ReLU()
        self.downsample = _shortcut(channels_in, channels * self.expansion, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map N×C×H×W to N×C'×H/stride×W/stride."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        result: torch.Tensor = self.relu3(out + shortcut)
        return result


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


class PoseResNet(nn.Module):
    """ResNet to layer4, three 4×4 deconvolutions of 256 channels, and a 1×1 convolution to the heatmaps.

    Args:
        depth: A key of `LAYERS`.
        joints: Number of heatmaps.
        caffe_style: Of a depth of 50 or more: bottlenecks have their stride in the first 1×1 convolution. Names and
            shapes of the parameters stay the same.
    """

    def __init__(self, depth: int, joints: int, *, caffe_style: bool = False) -> None:
        super().__init__()
        basic = depth < _FIRST_BOTTLENECK_DEPTH
        expansion = (BasicBlock if basic else Bottleneck).expansion
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels_in = 64
        stages = []
        for number, (blocks, channels) in enumerate(zip(LAYERS[depth], (64, 128, 256, 512), strict=True)):
            stage: list[nn.Module] = []
            for repeat in range(blocks):
                stride = 2 if number > 0 and repeat == 0 else 1
                if basic:
                    stage.append(BasicBlock(channels_in, channels, stride))
                else:
                    stage.append(Bottleneck(channels_in, channels, stride, stride_first=caffe_style))
                channels_in = channels * expansion
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        deconvolutions: list[nn.Module] = []
        for _ in range(3):
            deconvolutions += [
                nn.ConvTranspose2d(channels_in, _DECONV_CHANNELS, 4, 2, 1, bias=False),
                nn.BatchNorm2d(_DECONV_CHANNELS),
                nn.ReLU(),
            ]
            channels_in = _DECONV_CHANNELS
        self.deconv_layers = nn.Sequential(*deconvolutions)
        self.final_layer = nn.Conv2d(_DECONV_CHANNELS, joints, 1)
        self._initialize()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalized images N×3×H×W to heatmaps N×J×H/4×W/4."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        heatmaps: torch.Tensor = self.final_layer(self.deconv_layers(x))
        return heatmaps

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
        # Heatmaps are zero nearly everywhere: start there.
        nn.init.normal_(self.final_layer.weight, std=0.001)
        if self.final_layer.bias is not None:
            nn.init.zeros_(self.final_layer.bias)
