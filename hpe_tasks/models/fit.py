"""Whether a checkpoint file is the network that the configuration describes, found out in seconds."""

from __future__ import annotations

from pathlib import Path

from hpe_tasks.config.model import ModelConfig


def check_fit(config: ModelConfig, checkpoint: Path) -> None:
    """Check a checkpoint's names and shapes against the architecture, or let an ONNX file take a blank image.

    Raises:
        CheckpointError: The file cannot be read, does not fit the architecture, or does not take the input size, or
            its output is not what the configuration says.
    """
    if config.network.from_file:
        from hpe_tasks.models.onnx_model import check_onnx

        check_onnx(checkpoint, config)
        return
    from hpe_tasks.models import build_model
    from hpe_tasks.models.checkpoint import check_checkpoint

    check_checkpoint(build_model(config), checkpoint)
