"""What a network is trained with that has learnt already: safe settings, for few hundred images of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpe_tasks.config.loading import load_training
from hpe_tasks.config.training import TrainingConfig

_CAREFUL: dict[str, Any] = {
    # A tenth of what a network begins with: what it knows is changed little by little.
    "learning_rate": 3e-4,
    "epochs": 20,
    "warm_up_epochs": 1.0,
    "batch_size": 16,
    # Few images make short epochs, of which any may be the best.
    "evaluate_every": 1,
    "save_every": 1,
    "early_stop": 6,
    # A mean over about three epochs of three hundred persons.
    "ema_decay": 0.98,
    "gradient_clip_norm": 1.0,
}
"""Of the whole network."""

_HEAD_FIRST: dict[str, Any] = {
    "freeze_backbone": True,
    "learning_rate": 1e-3,
    "epochs": 3,
    "early_stop": None,
    "ema_decay": None,
}
"""What differs at first: what must change most changes alone, so that its errors do not spoil the layers before it."""


def fine_tuning_stages(network: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[TrainingConfig, ...]:
    """The stages of a fine-tuning: the head alone, then all layers; or one stage where `freeze_backbone` is asked for.

    Args:
        network: Settings that belong to the network and its weights, with `initial_weights`.
        asked: Settings that the user gives; they win, and hold for all layers where the stages differ.

    Raises:
        ConfigError: Names the unknown setting or the value out of bounds.
    """
    settings = {**_CAREFUL, **network, **asked}
    if settings.get("val_split", "val") is None and "early_stop" not in asked:
        # Nothing tells which epoch is the best.
        settings["early_stop"] = None
    stages = [settings]
    if "freeze_backbone" not in asked:
        stages.insert(0, {**settings, **_HEAD_FIRST})
    return tuple(stage for one in stages for stage in load_training(one))
