"""Proof that a model is the one that was published: its manifest, the manifest's signature, and its own bytes."""

from __future__ import annotations

import os
from pathlib import Path

from hpe_tasks.contract.digests import FileDigest
from hpe_tasks.contract.frozen import frozen
from hpe_tasks.contract.stored_graph import graph_role
from hpe_tasks.contract.version import check_version
from hpe_tasks.serving.served_model import ServedModel
from hpe_tasks.serving.signature import check_signature


@frozen
class NetworkFile:
    """A file of a version that onnxruntime loads.

    Attributes:
        optimized: Whether it is a graph that onnxruntime has rewritten already.
    """

    sha256: str
    size_bytes: int
    optimized: bool


@frozen
class VerifiedModel:
    """A model whose bytes are those of its manifest, and whose manifest is signed if that is required.

    Attributes:
        network: What onnxruntime loads: model.onnx, or the graph that is stored beside it for this machine.
        file: Where that lies on this machine.
        manifest_sha256: Of the manifest's bytes.
        origin: Where it came from, for logs: `package` or the address of the manifest.
    """

    model: ServedModel
    network: NetworkFile
    file: Path
    manifest_sha256: str
    origin: str


def verified_manifest(
    manifest: bytes, signature: bytes | None, public_keys: tuple[bytes, ...], origin: str
) -> ServedModel:
    """Read a manifest that is signed, if that is required, and whose content is that of its version.

    Raises:
        DigestError: It is not.
    """
    if public_keys:
        check_signature(manifest, signature, public_keys, origin)
    model = ServedModel.from_manifest(manifest)
    check_version(manifest, model.version, model.model_sha256)
    return model


def model_file(model: ServedModel) -> NetworkFile:
    """model.onnx."""
    return NetworkFile(model.model_sha256, model.model_size_bytes, optimized=False)


def network_file(model: ServedModel) -> NetworkFile:
    """What is to be loaded here: the graph that this onnxruntime made on such a machine, or else model.onnx."""
    import onnxruntime

    here = graph_role(model.model_sha256, os.uname().machine, onnxruntime.__version__)
    for role, sha256, size_bytes in model.graphs:
        if role == here:
            return NetworkFile(sha256, size_bytes, optimized=True)
    return model_file(model)


def is_network(file: Path, network: NetworkFile) -> bool:
    """Whether a file has the size and the SHA-256 that the manifest says."""
    return file.stat().st_size == network.size_bytes and FileDigest(file).result()[1] == network.sha256
