"""HRNet for poses: four resolutions side by side, which exchange what they have found again and again.

Source: Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation" (2019). Parameter names are
those of its published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from hpe_tasks.networks.pose_resnet import BasicBlock, Bottleneck

_STEM_CHANNELS = 64
_MODULES = (1, 4, 3)
"""Of stages 2, 3 and 4."""

_BLOCKS = 4
"""In layer1, and in each branch of a module."""


class PoseHRNet(nn.Module):
    """Stem to a quarter of the input, three stages of 2, 3 and 4 branches, and heatmaps from the finest branch.

    Args:
        width: Channels of the finest branch, 32 or 48 in published networks; each coarser one has twice as many.
        joints: Number of heatmaps.
        modules: Modules in each of the three stages.
        blocks: Blocks in layer1, and in each branch of a module.
    """

    def __init__(
        self, width: int, joints: int, *, modules: tuple[int, int, int] = _MODULES, blocks: int = _BLOCKS
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM_CHANNELS, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM_CHANNELS)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(_STEM_CHANNELS, _STEM_CHANNELS, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_STEM_CHANNELS)
        self.relu2 = nn.ReLU()
        wide = _STEM_CHANNELS * Bottleneck.expansion
        self.layer1 = nn.Sequential(
            *(
                Bottleneck(wide if repeat else _STEM_CHANNELS, _STEM_CHANNELS, 1, stride_first=False)
                for repeat in range(blocks)
            )
        )
        channels = [width * 2**branch for branch in range(4)]
        self.transition1 = Transition([wide], channels[:2])
        self.stage2 = _stage(modules[0], blocks, channels[:2])
        self.transition2 = Transition(channels[:2], channels[:3])
        self.stage3 = _stage(modules[1], blocks, channels[:3])
        self.transition3 = Transition(channels[:3], channels)
        self.stage4 = _stage(modules[2], blocks, channels, last_outputs=1)
        self.final_layer = nn.Conv2d(width, joints, 1)
        self._initialize()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalized images N×3×H×W to heatmaps N×J×H/4×W/4; H and W are multiples of 32."""
        x = self.relu1(self.bn1(self.conv1(images)))
        x = self.relu2(self.bn2(self.conv2(x)))
        maps = self.stage2(self.transition1([self.layer1(x)]))
        maps = self.stage3(self.transition2(maps))
        maps = self.stage4(self.transition3(maps))
        heatmaps: torch.Tensor = self.final_layer(maps[0])
        return heatmaps

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        # Heatmaps are zero nearly everywhere: start there.
        nn.init.normal_(self.final_layer.weight, std=0.001)
        if self.final_layer.bias is not None:
            nn.init.zeros_(self.final_layer.bias)


class Transition(nn.ModuleDict):
    """From the branches of one stage to those of the next: other channels where they change, and one coarser branch.

    Args:
        before: Channels of each branch.
        after: Channels of each branch of the next stage.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        layers: dict[str, nn.Module] = {}
        for branch, channels in enumerate(after):
            if branch == len(before):
                # Published names have a list around each new branch.
                layers[str(branch)] = nn.Sequential(_convolution(before[-1], channels, stride=2, relu=True))
            elif before[branch] != channels:
                layers[str(branch)] = _convolution(before[branch], channels, stride=1, relu=True)
        super().__init__(layers)
        self.branches = len(after)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map N×C×h×w of each branch, finest first, to those of the next stage."""
        found = []
        for branch in range(self.branches):
            own = maps[min(branch, len(maps) - 1)]
            found.append(self[str(branch)](own) if str(branch) in self else own)
        return found


class HighResolutionModule(nn.Module):
    """Some blocks in each branch by itself, then to each branch the sum of all, brought to its size.

    Args:
        channels: Of each branch, finest first; each is half as wide and high as the one before.
        outputs: How many branches are given, finest first.
        blocks: In each branch.
    """

    def __init__(self, channels: Sequence[int], outputs: int, blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(BasicBlock(c, c, 1) for _ in range(blocks))) for c in channels)
        # A branch goes into its own sum as it is: its number is left out, as in published names.
        self.fuse_layers = nn.ModuleList(
            nn.ModuleDict({str(i): _resized(channels, i, to) for i in range(len(channels)) if i != to})
            for to in range(outputs)
        )
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(outputs))

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Map N×C×h×w of each branch, finest first, to the same shapes of the branches that are given."""
        own = [branch(one) for branch, one in zip(self.branches, maps, strict=True)]
        fused = []
        for to, relu in enumerate(self.relus):
            total = self._brought(own, 0, to)
            for branch in range(1, len(own)):
                total = total + self._brought(own, branch, to)
            fused.append(relu(total))
        return fused

    def _brought(self, maps: list[torch.Tensor], branch: int, to: int) -> torch.Tensor:
        if branch == to:
            return maps[branch]
        resize: nn.Module = self.fuse_layers[to].get_submodule(str(branch))
        brought: torch.Tensor = resize(maps[branch])
        return brought


def _stage(modules: int, blocks: int, channels: Sequence[int], *, last_outputs: int | None = None) -> nn.Sequential:
    """The modules of a stage; the last one gives `last_outputs` branches, or all."""
    outputs = [len(channels)] * (modules - 1) + [last_outputs or len(channels)]
    return nn.Sequential(*(HighResolutionModule(channels, number, blocks) for number in outputs))


def _resized(channels: Sequence[int], branch: int, to: int) -> nn.Sequential:
    """What brings a branch to the channels and the size of another."""
    if branch > to:
        return nn.Sequential(
            nn.Conv2d(channels[branch], channels[to], 1, bias=False),
            nn.BatchNorm2d(channels[to]),
            nn.Upsample(scale_factor=2 ** (branch - to), mode="nearest"),
        )
    halvings = [_convolution(channels[branch], channels[branch], stride=2, relu=True) for _ in range(branch + 1, to)]
    return nn.Sequential(*halvings, _convolution(channels[branch], channels[to], stride=2, relu=False))


def _convolution(channels_in: int, channels_out: int, *, stride: int, relu: bool) -> nn.Sequential:
    layers = [nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))
