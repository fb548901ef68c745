"""Kubernetes' own schemas of pods and config maps, version 1.34.

They are those of kubernetes-validate (Apache-2.0) without descriptions: its strict ones, which take no unknown field.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema


def kubernetes_validator(kind: str) -> jsonschema.Draft202012Validator:
    """What tells whether a manifest is one, of kind `Pod` or `ConfigMap`."""
    packed = (Path(__file__).parent / "v1.34.json.gz").read_bytes()
    schema: dict[str, Any] = json.loads(gzip.decompress(packed))
    return jsonschema.Draft202012Validator({**schema, "$ref": f"#/definitions/{kind.lower()}"})
