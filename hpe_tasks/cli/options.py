"""Options that several `hpe` commands share."""

from __future__ import annotations

from typing import Annotated

import typer

DEFAULT_REGISTRY = "s3://hpe-models/registry"
DEFAULT_MODEL = "sample-pose"
DEFAULT_CHANNEL = "staging"

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RegistryOption = Annotated[str, typer.Option("--registry", help="s3://bucket/prefix of the registry.")]
