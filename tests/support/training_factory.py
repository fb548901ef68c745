"""Small trainings on the smallest drawn people, of a top-down network and of a bottom-up one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.models.training_record import TRAINING_KEY
from hpe_tasks.pose.skeletons import COCO17

STILL: dict[str, Any] = {
    "flip_probability": 0.0,
    "rotation_degrees": 0.0,
    "scale_range": 0.0,
    "shift_range": 0.0,
    "colour_jitter": 0.0,
}
"""No augmentation."""

MIRRORED = np.arange(17)
"""The joint on the other side of the body, for each of COCO's."""
for left, right in COCO17.flip_pairs:
    MIRRORED[[left, right]] = right, left


def top_down(**fields: Any) -> TrainingConfig:
    tiny = {
        "input_width": 64,
        "input_height": 64,
        "width_multiplier": 0.125,
        "epochs": 2,
        "batch_size": 8,
        "warm_up_epochs": 0.0,
        "val_split": None,
        "device": "cpu",
    }
    return TrainingConfig.model_validate(tiny | fields)


def bottom_up(**fields: Any) -> TrainingConfig:
    tiny = {
        "architecture": "aimet_pose",
        "input_width": 64,
        "input_height": 48,
        "epochs": 2,
        "batch_size": 3,
        "warm_up_epochs": 0.0,
        "sigma": 0.875,
        "val_split": None,
        "device": "cpu",
    }
    return TrainingConfig.model_validate(tiny | fields)


def metadata(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its training."""
    with safe_open(path, framework="pt") as file:
        content: dict[str, Any] = json.loads(file.metadata()[TRAINING_KEY])
    return content
