"""Where the function's model comes from: the package itself, or a registry in S3; verified before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hpe_tasks.serving.served_model import ServedModel
from hpe_tasks.serving.settings import ServingSettings


@dataclass(frozen=True)
class VerifiedModel:
    """A model whose bytes are those of its manifest, and whose manifest is signed if that is required.

    Attributes:
        file: model.onnx on this machine.
        manifest_sha256: Of the manifest's bytes.
        origin: Where it came from, for logs: `package` or the address of the manifest.
    """

    model: ServedModel
    file: Path
    manifest_sha256: str
    origin: str


class ModelSource(Protocol):
    """Where models come from."""

    def load(self) -> VerifiedModel:
        """The model to serve now; raises DigestError, AccessError or TransientError where there is none to trust."""

    def newer(self, current: VerifiedModel) -> VerifiedModel | None:
        """Another model that is to be served from now on; None when `current` stays. Raises as `load` does."""


def open_source(settings: ServingSettings) -> ModelSource:
    """The source that the settings name; no model is read yet."""
    raise NotImplementedError
