"""What all settings are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from hpe_tasks.contract.names import SHA256, SLUG

SAMPLE = "sample"
"""As `dataset.source` or `model.checkpoint`: the data set and checkpoint that the project itself makes."""

Sha256 = Annotated[str, StringConstraints(pattern=f"^{SHA256}$")]

Slug = Annotated[str, StringConstraints(pattern=f"^{SLUG}$")]


class Frozen(BaseModel):
    """Immutable record that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
