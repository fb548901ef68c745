"""What a training starts with: where it computes, how exactly, and from which weights."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.fetch.taken_in import try_weights
from hpe_tasks.errors import ConfigError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint, load_common_layers, sample_checkpoint
from hpe_tasks.training.norms import add_batch_norms

log = logging.getLogger(__name__)


def training_device(config: TrainingConfig) -> torch.device:
    """Where to compute; raises ConfigError where there is no such device."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but there is none.", hint="Use device 'cpu' or 'auto'.")
    return torch.device(config.device)


def decided(config: TrainingConfig) -> TrainingConfig:
    """The settings, with what they leave to the device decided; raises ConfigError where there is no such device."""
    return config.model_copy(update={"bfloat16": _in_bfloat16(config, training_device(config))})


def _in_bfloat16(config: TrainingConfig, device: torch.device) -> bool:
    if config.bfloat16 is not None:
        return config.bfloat16
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def initial_model(config: TrainingConfig, *, read: bool = True) -> nn.Module:
    """The network, with random weights or those of `initial_weights`.

    Args:
        config: The network and its weights.
        read: Whether to read the weights; their place is taken by others where a training goes on.

    Raises:
        CheckpointError: The initial weights cannot be read, take more than the limits, or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(config.model_config_for("unused"), all_stages=True)
    if config.initial_weights is not None and read:
        file = (
            sample_checkpoint(config.architecture) if config.initial_weights == SAMPLE else Path(config.initial_weights)
        )
        try_weights(config.model_config_for("unused"), file)
        if config.new_head:
            log.info("%s: %s", file.name, load_common_layers(model, file))
        else:
            load_checkpoint(model, file)
    elif config.initial_weights is None and not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        add_batch_norms(model)
    return model
