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

    # Built at their first use: a DAG file imports all of them at each parse, and uses few.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
