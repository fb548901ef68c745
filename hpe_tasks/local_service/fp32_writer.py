"""The float32 file of a checkpoint, written in whatever process this is called in. Imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import HpeError
from hpe_tasks.models.fp32_onnx import export_fp32


def write_fp32(checkpoint: str, *, model: dict[str, Any], file: str, answer: str) -> None:
    """Write a network with these weights as a float32 ONNX file: for `try_reading`.

    Args:
        checkpoint: The weights.
        model: The fields of the network's configuration.
        file: The file to write.
        answer: File that takes `{"problem": …}`: why it could not be written, empty where it was.
    """
    problem = ""
    try:
        export_fp32(ModelConfig.model_validate(model), Path(checkpoint), Path(file))
    except HpeError as error:
        problem = error.message
    Path(answer).write_text(json.dumps({"problem": problem}), encoding="utf-8")
