"""A real network among the test data that takes images in BGR, with values from 0 to 255."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpe_tasks.config.model import ModelConfig

JOINTS = (
    *("head_top", "upper_neck"),
    *("right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
)
"""In channel order."""


def pose_for_mobile(test_data: Path, **changes: Any) -> tuple[Path, ModelConfig]:
    """The convolutional pose machine of PoseEstimationForMobile, and its right description but for the changes."""
    path = test_data / "models" / "pefm_cpm_192.onnx"
    fields: dict[str, Any] = {
        "architecture": "onnx",
        "checkpoint": str(path),
        "joint_names": JOINTS,
        "input_width": 192,
        "input_height": 192,
        "channel_order": "bgr",
        "mean": (0, 0, 0),
        "std": (1 / 255,) * 3,
    }
    return path, ModelConfig.model_validate(fields | changes)
