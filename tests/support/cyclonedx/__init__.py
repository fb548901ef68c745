"""The JSON schema of CycloneDX 1.6, as https://github.com/CycloneDX/specification publishes it under Apache-2.0."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource


def cyclonedx_validator() -> jsonschema.Draft7Validator:
    """What tells whether a bill is one; without the formats of texts, such as addresses."""
    folder = Path(__file__).parent
    schemas: dict[str, Any] = {
        name: json.loads(gzip.decompress((folder / f"{name}.schema.json.gz").read_bytes()))
        for name in ("bom-1.6", "jsf-0.82", "spdx")
    }
    # By the names that the schema has for the other two.
    registry: Registry[Any] = Registry().with_resources(
        (f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json", Resource.from_contents(schema))
        for name, schema in schemas.items()
    )
    return jsonschema.Draft7Validator(schemas["bom-1.6"], registry=registry)
