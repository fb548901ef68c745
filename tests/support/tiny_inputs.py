"""The smallest inputs that the whole pipeline runs on: some drawn people and a pose_mobilenet with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def tiny_bottom_up_settings(folder: Path) -> dict[str, Any]:
    """Make drawn people and a bottom-up network with random weights, which finds nobody; as `tiny_settings`."""
    import torch
    from safetensors.torch import save_file

    from hpe_tasks.config.loading import load_config
    from hpe_tasks.data.sample import SampleSpec, make_sample
    from hpe_tasks.models import build_model

    make_sample(folder / "data", SampleSpec(train=1, calibration=3, val=4, width=200, height=150))
    torch.manual_seed(0)
    checkpoint = folder / "random.safetensors"
    settings = {
        "preset": "aimet_pose_sample",
        "model.checkpoint": str(checkpoint),
        "model.input_width": 128,
        "model.input_height": 96,
        "dataset.source": str(folder / "data"),
        "dataset.min_persons": 1,
        "recipe.calibration_images": 3,
        "destination.name": "tiny-bottom-up",
    }
    overrides = {key: value for key, value in settings.items() if key != "preset"}
    save_file(build_model(load_config("aimet_pose_sample", overrides=overrides).model).state_dict(), checkpoint)
    return settings


def tiny_settings(folder: Path) -> dict[str, Any]:
    """Make the inputs in `folder`; returns the run's settings by the trigger form's keys, with limits that all pass."""
    from hpe_tasks.config.model import ModelConfig
    from hpe_tasks.data.sample import SampleSpec, make_sample
    from support.tiny_networks import write_checkpoint

    make_sample(folder / "data", SampleSpec(train=1, calibration=3, val=4, width=200, height=150))
    checkpoint = folder / "random.safetensors"
    network = {"input_width": 64, "input_height": 64, "width_multiplier": 0.25}
    # It has learned nothing, but is sure of joints: a smoke test needs some to compare.
    write_checkpoint(checkpoint, ModelConfig(checkpoint=str(checkpoint), **network))
    return {
        "preset": "sample",
        "model.checkpoint": str(checkpoint),
        **{f"model.{key}": value for key, value in network.items()},
        "dataset.source": str(folder / "data"),
        "dataset.min_persons": 1,
        "recipe.calibration_images": 3,
        "recipe.scheme": "min_max",
        "gate.min_ap": 0.0,
        "gate.max_ap_drop": 1.0,
        "gate.max_quantsim_gap": 1.0,
        "gate.min_int8_mac_share": 0.0,
        "gate.resamples": 200,
        "destination.name": "tiny",
    }
