"""What all records are made of."""

from __future__ import annotations

from typing import Literal

from hpe_tasks.config.base import Frozen


class Artifact(Frozen):
    """A stored file that can be verified."""

    uri: str
    sha256: str
    size_bytes: int


class Record(Frozen):
    """Base of what a step stores as `result.json`."""

    schema_version: Literal[1] = 1
