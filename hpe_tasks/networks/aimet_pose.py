"""The pose network of the AIMET model zoo: OpenPose in two stages, compressed by low-rank convolutions.

Every large convolution is a pair of one with a column kernel and one with a row kernel: no bias on the first, no
activation between the two. Parameter names are those of the zoo's checkpoint (`pe_weights.pth`). There a head's name
is `stage<stage>_<branch>`: branch 1 gives part-affinity fields, branch 2 heatmaps. Descriptions of the network write
the two numbers the other way round; the checkpoint's names decide.
Source: the AIMET model zoo's "Pose Estimation"; Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part
Affinity Fields" (2017).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

STRIDE = 8
"""Input pixels in one pixel of the output maps."""

PAF_CHANNELS = 38
HEATMAP_CHANNELS = 19
"""18 joints and the background."""


class _Pair(NamedTuple):
    """A low-rank convolution: a k×1 one to `rank` channels, then a 1×k one."""

    channels_in: int
    rank: int
    channels_out: int


_POOL = "pool"
# What follows the first 3×3 convolution, 3 → 32.
_BASE: tuple[_Pair | str, ...] = (
    _Pair(32, 16, 32),
    _POOL,
    _Pair(32, 32, 64),
    _Pair(64, 32, 96),
    _POOL,
    _Pair(96, 80, 256),
    _Pair(256, 80, 256),
    _Pair(256, 48, 128),
    _Pair(128, 48, 256),
    _POOL,
    _Pair(256, 96, 512),
    _Pair(512, 192, 512),
)
_FEATURES = 128
_STAGE_2_INPUT = PAF_CHANNELS + HEATMAP_CHANNELS + _FEATURES


class AimetPose(nn.Module):
    """Part-affinity fields and heatmaps of all people in an image, at an eighth of the input, in two stages.

    The joints are fixed: `OPENPOSE18` and the background. The input may be wide or high (the zoo gives it 496×384 or
    384×496), its sides are multiples of 8.

    Args:
        last_stage_only: Give the second stage's maps alone, the ones that are decoded; the first stage's are for
            training. The parameters are the same.
    """

    def __init__(self, *, last_stage_only: bool = False) -> None:
        super().__init__()
        self.last_stage_only = last_stage_only
        base: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()]
        for layer in _BASE:
            base += [nn.MaxPool2d(2)] if isinstance(layer, str) else [_low_rank(layer, 3), nn.ReLU()]
        self.basemodel = nn.Sequential(*base)
        self.pre_stage = nn.Sequential(
            _low_rank(_Pair(512, 256, 256), 3), nn.ReLU(), nn.Conv2d(256, _FEATURES, 3, padding=1), nn.ReLU()
        )
        self.stage1_shared = _shared(_Pair(_FEATURES, 112, _FEATURES))
        self.stage1_1 = _head((32, 32, 32), PAF_CHANNELS)
        self.stage1_2 = _head((32, 32, 48), HEATMAP_CHANNELS)
        self.stage2_shared = _shared(_Pair(_STAGE_2_INPUT, 128, _FEATURES))
        self.stage2_1 = _head((32, 32, 32), PAF_CHANNELS)
        self.stage2_2 = _head((32, 48, 48), HEATMAP_CHANNELS)
        self._initialize()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map images N×3×H×W to maps at 1/8 of their size.

        Args:
            images: RGB, each value / 256 − 0.5.

        Returns:
            (PAF₁, heat₁, PAF₂, heat₂), or the last two with `last_stage_only`: part-affinity fields N×38×H/8×W/8 and
            heatmaps N×19×H/8×W/8, as codec `paf` reads them.
        """
        features = self.pre_stage(self.basemodel(images))
        shared = self.stage1_shared(features)
        first = self.stage1_1(shared), self.stage1_2(shared)
        shared = self.stage2_shared(torch.cat([*first, features], dim=1))
        last = self.stage2_1(shared), self.stage2_2(shared)
        return last if self.last_stage_only else (*first, *last)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # The first of a pair, which has no bias, is followed by no activation.
                if module.bias is None:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                else:
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                    nn.init.zeros_(module.bias)
        # Start near the maps of an empty image: zero everywhere, but one in the last heatmap, the background.
        for head in (self.stage1_1, self.stage1_2, self.stage2_1, self.stage2_2):
            last = head[-1]
            if isinstance(last, nn.Conv2d) and last.bias is not None:
                nn.init.normal_(last.weight, std=0.01)
                if last.out_channels == HEATMAP_CHANNELS:
                    nn.init.ones_(last.bias[-1:])


def _low_rank(pair: _Pair, kernel: int) -> nn.Sequential:
    half = kernel // 2
    return nn.Sequential(
        nn.Conv2d(pair.channels_in, pair.rank, (kernel, 1), padding=(half, 0), bias=False),
        nn.Conv2d(pair.rank, pair.channels_out, (1, kernel), padding=(0, half)),
    )


def _shared(first: _Pair) -> nn.Sequential:
    second = _Pair(_FEATURES, 112, _FEATURES)
    return nn.Sequential(_low_rank(first, 7), nn.ReLU(), _low_rank(second, 7), nn.ReLU())


def _head(ranks: tuple[int, int, int], channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for rank in ranks:
        layers += [_low_rank(_Pair(_FEATURES, rank, _FEATURES), 3), nn.ReLU()]
    layers += [nn.Conv2d(_FEATURES, _FEATURES, 1), nn.ReLU(), nn.Conv2d(_FEATURES, channels_out, 1)]
    return nn.Sequential(*layers)
