"""The real EfficientPose networks among the test data."""

from __future__ import annotations

from pathlib import Path

from hpe_tasks.config.model import ModelConfig


def efficientpose(test_data: Path, name: str, size: int) -> tuple[Path, ModelConfig]:
    """The file of this name and its description; images are `size`×`size`."""
    path = test_data / "models" / name
    return path, ModelConfig(
        architecture="onnx",
        checkpoint=str(path),
        skeleton="efficientpose16",
        input_width=size,
        input_height=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        output_layout="nhwc",
    )
