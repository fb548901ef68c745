"""What a version came from, published beside it: the weights, to train from, and the network in float32, to compare."""

from __future__ import annotations

import logging
from pathlib import Path

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import AccessError
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.inputs import FetchedCheckpoint
from hpe_tasks.registry.manifest import CHECKPOINT_ROLE, FP32_ROLE
from hpe_tasks.storage.workspace import Scratch, Workspace

LARGEST_BYTES = 1024**3
"""A larger file is not published: the weights of pose_hrnet_w48 have a quarter of it."""

log = logging.getLogger(__name__)


def published_origins(
    workspace: Workspace, fetched: FetchedCheckpoint, model: ModelConfig, scratch: Scratch
) -> dict[str, tuple[Artifact, Path]]:
    """The checkpoint, and the network before quantization as a float32 ONNX file, by their roles.

    An ONNX file is the latter, and no checkpoint to train from. Nothing is published where the checkpoint is too large
    or gone, which is told.

    Args:
        workspace: Has the checkpoint.
        fetched: The checkpoint.
        model: Its network.
        scratch: Takes the float32 file.

    Raises:
        CheckpointError: The weights do not fit the network.
    """
    file = fetched.file
    if file.size_bytes > LARGEST_BYTES:
        log.warning(
            "The checkpoint has %s bytes, more than the %s that are published beside a version: to train from it, keep "
            "it where it is.", f"{file.size_bytes:,}", f"{LARGEST_BYTES:,}",
        )  # fmt: skip
        return {}
    try:
        local = workspace.local(file)
    except AccessError as error:
        log.warning("The version is published without its checkpoint: %s", error.message)
        return {}
    if model.network.from_file:
        return {FP32_ROLE: (file, local)}
    from hpe_tasks.models.fp32_onnx import export_fp32

    fp32 = export_fp32(model, local, scratch.path / f"{FP32_ROLE}.onnx")
    return {CHECKPOINT_ROLE: (file, local), FP32_ROLE: (scratch.artifact(fp32), fp32)}
