"""The smallest inputs that the whole pipeline runs on: some drawn people and a pose_mobilenet with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def tiny_settings(folder: Path) -> dict[str, Any]:
    """Make the inputs in `folder`; returns the run's settings by the trigger form's keys, with limits that all pass."""
    import torch
    from safetensors.torch import save_file

    from hpe_tasks.config import ModelConfig
    from hpe_tasks.data.sample import SampleSpec, make_sample
    from hpe_tasks.models import build_model

    make_sample(folder / "data", SampleSpec(train=1, calibration=3, val=4, width=200, height=150))
    torch.manual_seed(0)
    checkpoint = folder / "random.safetensors"
    network = {"input_width": 64, "input_height": 64, "width_multiplier": 0.25}
    model = build_model(ModelConfig(checkpoint=str(checkpoint), **network))
    save_file(model.state_dict(), checkpoint)
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
        "destination.name": "tiny",
    }
