"""Proof that a model is the one that was published: its manifest, the manifest's signature, and its own bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hpe_tasks.frozen import frozen
from hpe_tasks.serving.served_model import ServedModel
from hpe_tasks.serving.signature import check_signature
from hpe_tasks.serving.version import check_version


@frozen
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


def verified_manifest(manifest: bytes, signature: bytes | None, public_key: bytes | None, origin: str) -> ServedModel:
    """Read a manifest that is signed, if that is required, and whose content is that of its version.

    Raises:
        DigestError: It is not.
    """
    if public_key is not None:
        check_signature(manifest, signature, public_key, origin)
    model = ServedModel.from_manifest(manifest)
    check_version(manifest, model.version, model.model_sha256)
    return model


def is_model(file: Path, model: ServedModel) -> bool:
    """Whether a file has the size and the SHA-256 of the model."""
    if file.stat().st_size != model.model_size_bytes:
        return False
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == model.model_sha256
