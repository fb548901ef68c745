"""What a checkpoint says of its own training: the metadata that `hpe train` writes into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

TRAINING_KEY = "hpe_training"
"""Entry of a checkpoint's safetensors metadata: JSON that says how the weights came about."""


def trained_on(checkpoint: Path) -> str | None:
    """What a checkpoint was trained on, in a sentence; None where it does not say.

    Only files that `hpe train` wrote say it: by the description of their data set, and the size of their input.
    """
    record = training_record(checkpoint)
    described = record.get("dataset")
    description = described.get("description") if isinstance(described, dict) else None
    if not isinstance(description, str) or not description.strip():
        return None
    size = record.get("input_size")
    known = isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size)
    return description.strip().rstrip(".")[:200] + (f"; input {size[0]}×{size[1]}." if known and size else ".")


def training_record(checkpoint: Path) -> dict[str, Any]:
    """The record; empty where there is none that can be read: loading the weights says what is wrong with a file."""
    if checkpoint.suffix != ".safetensors":
        return {}
    try:
        with safe_open(checkpoint, "np") as file:
            record = json.loads((file.metadata() or {}).get(TRAINING_KEY, "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
