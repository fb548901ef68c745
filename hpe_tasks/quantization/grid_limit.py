"""Where weights may be while they learn, so that rounding puts them on the grid on which no kernel can clip a sum.

`weight_grid` chooses steps and codes of weights that stand. Weights that move keep the steps, and are moved back after
every step of the learning: rounded as they then are, no pair of codes is too large, and the grid has nothing to change.
"""

from __future__ import annotations

import torch

from hpe_tasks.onnx_runtime.kernel_model import LARGEST_PAIR, SMALLEST_CODE
from hpe_tasks.quantization.weight_grid import LayerWeights, kernel_rows

_LARGEST_CODE = 127

_EXACT_PAIR = LARGEST_PAIR - 1
"""Largest sum of two exact codes: rounding adds half a code to each at most."""


class GridLimit:
    """Moves a layer's weights back to where they may be.

    Args:
        weights: Of a layer, on their grid.
        device: Where they learn.
    """

    def __init__(self, weights: LayerWeights, device: torch.device) -> None:
        rows = kernel_rows(weights.weight.shape, weights.layer)
        self._rows = torch.from_numpy(rows).to(device)
        self._step, self._zero = (
            torch.as_tensor(values.reshape(-1, 1, 1), dtype=torch.float32, device=device)
            for values in (weights.scale, weights.zero_point)
        )
        self._paired = weights.layer.kind != "free"

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest weights, of the same shape, that may stand."""
        codes = weight.reshape(-1)[self._rows] / self._step + self._zero
        codes = codes.clamp(SMALLEST_CODE, _LARGEST_CODE)
        if self._paired:
            width = codes.shape[2] // 2 * 2
            codes[:, :, :width] = _pairs_kept(codes[:, :, :width])
        kept = torch.empty_like(weight).reshape(-1)
        kept[self._rows] = (codes - self._zero) * self._step
        return kept.reshape(weight.shape)


def _pairs_kept(codes: torch.Tensor) -> torch.Tensor:
    """Let both of two neighbours whose sum is too large give way by the same."""
    pairs = codes.reshape(*codes.shape[:2], -1, 2)
    excess = pairs.sum(dim=3, keepdim=True).abs() - _EXACT_PAIR
    one_sign = (pairs > 0).all(dim=3, keepdim=True) | (pairs < 0).all(dim=3, keepdim=True)
    # None is larger than an exact pair may be, so that both keep their sign.
    given = pairs - pairs.sign() * excess / 2
    return torch.where(one_sign & (excess > 0), given, pairs).flatten(2)
