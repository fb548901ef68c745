"""pose_mobilenet with a SimCC head: MobileNetV2, two depthwise deconvolutions, a vector for each axis of each joint.

The head is that of Li et al., "SimCC" (2022): a map for each joint, read by one linear layer for each axis, the same
for all joints. It has no activation and, as in RTMPose, no bias.
"""

from __future__ import annotations

import torch
from torch import nn

from hpe_tasks.networks.pose_mobilenet import HEAD_CHANNELS, backbone, initialize, upsampling
from hpe_tasks.pose.codecs.simcc import SPLIT_RATIO

_STRIDE = 8


class SimccMobileNet(nn.Module):
    """MobileNetV2 at stride 32, back to stride 8, and for each joint W·2 bins of x and H·2 of y.

    Args:
        joints: Number of joints.
        input_size: (W, H) of the input, which the linear layers depend on; multiples of 32.
        width_multiplier: Factor on the backbone's channels.

    Raises:
        ConfigError: The multiplier leaves a layer without channels.
    """

    def __init__(self, joints: int, input_size: tuple[int, int], *, width_multiplier: float = 0.5) -> None:
        super().__init__()
        width, height = input_size
        self.features, channels = backbone(width_multiplier)
        self.head = upsampling(channels, doublings=2)
        self.maps = nn.Conv2d(HEAD_CHANNELS, joints, 1)
        cells = (width // _STRIDE) * (height // _STRIDE)
        # In numbers, so that an exported file need not work the shape out.
        self._vectors = (-1, joints, cells)
        self.simcc_x = nn.Linear(cells, SPLIT_RATIO * width, bias=False)
        self.simcc_y = nn.Linear(cells, SPLIT_RATIO * height, bias=False)
        initialize(self)
        nn.init.normal_(self.maps.weight, std=0.01)
        if self.maps.bias is not None:
            nn.init.zeros_(self.maps.bias)
        with torch.no_grad():
            across, down = _marginal(width), _marginal(height)
            self.simcc_x.weight.copy_(across.repeat(1, height // _STRIDE))
            self.simcc_y.weight.copy_(down.repeat_interleave(width // _STRIDE, dim=1))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map normalized images N×3×H×W to vectors N×J×2W and N×J×2H."""
        maps = self.maps(self.head(self.features(images))).reshape(self._vectors)
        return self.simcc_x(maps), self.simcc_y(maps)


def _marginal(side: int) -> torch.Tensor:
    """Bins × cells of an axis: each bin sees the cells near it, so that a vector starts as its map summed up."""
    bins, cells = torch.arange(SPLIT_RATIO * side), torch.arange(side // _STRIDE)
    distance = bins[:, None] / (SPLIT_RATIO * _STRIDE) - cells
    return torch.exp(-(distance**2)) / 2
