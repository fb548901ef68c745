"""The checkpoint that a version came from, published beside it: a training can start from the registry alone."""

from __future__ import annotations

import logging
from pathlib import Path

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import AccessError
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.inputs import FetchedCheckpoint
from hpe_tasks.registry.manifest import CHECKPOINT_ROLE
from hpe_tasks.storage.workspace import Workspace

LARGEST_BYTES = 1024**3
"""A larger file is not published: the weights of pose_hrnet_w48 have a quarter of it."""

log = logging.getLogger(__name__)


def published_checkpoint(
    workspace: Workspace, fetched: FetchedCheckpoint, model: ModelConfig
) -> dict[str, tuple[Artifact, Path]]:
    """The checkpoint by its role; nothing where it is too large or gone, which is told, or an ONNX file.

    An ONNX file is no checkpoint to train from.
    """
    if model.network.from_file:
        return {}
    file = fetched.file
    if file.size_bytes > LARGEST_BYTES:
        log.warning(
            "The checkpoint has %s bytes, more than the %s that are published beside a version: to train from it, keep "
            "it where it is.", f"{file.size_bytes:,}", f"{LARGEST_BYTES:,}",
        )  # fmt: skip
        return {}
    try:
        return {CHECKPOINT_ROLE: (file, workspace.local(file))}
    except AccessError as error:
        log.warning("The version is published without its checkpoint: %s", error.message)
        return {}
