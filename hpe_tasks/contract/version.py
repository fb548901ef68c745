"""The version of a model: a digest of what its manifest says, so that the same content has the same version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hpe_tasks.contract.canonical import canonical_json
from hpe_tasks.errors import DigestError


def content_version(
    model_sha256: str, serving: Mapping[str, Any], protocol: Mapping[str, Any], limits: Mapping[str, Any]
) -> str:
    """16 hexadecimal digits: the start of the SHA-256 over the parts as JSON with sorted keys.

    Args:
        model_sha256: Of model.onnx.
        serving: How the model is fed and read.
        protocol: How the exported file was evaluated.
        limits: The gate's limits by the name of its check.
    """
    identity = {"model": model_sha256, "serving": serving, "protocol": protocol, "limits": limits}
    return hashlib.sha256(canonical_json(identity)).hexdigest()[:16]


def check_version(manifest: bytes, version: str, model_sha256: str) -> None:
    """Compare a manifest that can be served otherwise with its version; raises DigestError where they differ."""
    record = json.loads(manifest)
    try:
        limits = {check["name"]: check["limit"] for check in record["gate"]["checks"]}
        expected = content_version(model_sha256, record["serving"], record["onnx"]["fingerprint"], limits)
    except (KeyError, TypeError, ValueError) as error:
        raise DigestError(
            "The manifest lacks what its version is derived from: gate.checks, serving and onnx.fingerprint.",
            hint="Check that the file is the manifest of a published version.",
        ) from error
    if version != expected:
        raise DigestError(
            f"The manifest's version is {version!r}, but its content says {expected!r}.",
            hint="It was changed after it was published: publish the model again, or serve another version.",
        )
