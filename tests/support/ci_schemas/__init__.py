"""What GitHub and GitLab take as CI configuration: SchemaStore's schemas, without descriptions.

They are those that check-jsonschema 0.39 brings along (Apache-2.0).
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Literal

import jsonschema


def ci_validator(kind: Literal["github-workflow", "gitlab-ci"]) -> jsonschema.Draft7Validator:
    """What tells whether a file is one."""
    packed = (Path(__file__).parent / f"{kind}.json.gz").read_bytes()
    schema: dict[str, Any] = json.loads(gzip.decompress(packed))
    assert "draft-07" in schema["$schema"]
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)
