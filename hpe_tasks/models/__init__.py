"""Networks with their weights: built as a configuration describes them, read from checkpoints and ONNX files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import ConfigError
from hpe_tasks.networks import ARCHITECTURES, NetworkOptions

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build_model"]


def build_model(config: ModelConfig, *, all_stages: bool = False) -> nn.Module:
    """Build a network with random weights, float32 and in evaluation mode.

    It takes normalized images N×3×H×W and gives the outputs of `config.codec`: heatmaps are N×J×H/4×W/4, one for each
    joint of `config.joints`; `aimet_pose` gives part-affinity fields N×38×H/8×W/8 and heatmaps N×19×H/8×W/8, those of
    its last stage. No module is used twice in a forward pass: AIMET would leave the second use unquantized.

    Args:
        config: The architecture and its settings.
        all_stages: Whether a network of several stages gives the maps of all of them, as a training needs.

    Raises:
        ConfigError: The architecture is not built here, as `onnx`.
    """
    import torch

    build = config.network.build
    if build is None:
        built = sorted(name for name, network in ARCHITECTURES.items() if not network.from_file)
        raise ConfigError(
            f"model.architecture {config.architecture!r} is not a network that the project builds.",
            hint=f"It builds {', '.join(built)}; an `onnx` model is read from its file.",
        )
    model = build(
        NetworkOptions(
            joints=len(config.joints.joints),
            input_size=config.input_size,
            codec=config.codec,
            width_multiplier=config.width_multiplier,
            caffe_style=config.caffe_style,
            all_stages=all_stages,
        )
    )
    return model.to(torch.float32).eval()
