"""A stored simulation with some of its activations left in float: a quantizer that is off has no encoding."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_OFF = "left_float"
"""Where a file of encodings names the quantizers that are off; AIMET reads past it."""


def left_float(encodings: Path) -> tuple[str, ...]:
    """The activations that a stored simulation leaves in float on purpose; see `without` for their names."""
    content: Any = json.loads(encodings.read_text())
    return tuple(content.get(_OFF, ()))


def without(encodings: Path, names: Iterable[str]) -> bytes:
    """The file of encodings without those of these activations.

    Args:
        encodings: As one of the backends has written it.
        names: Tensors of an aimet_onnx file; `layer.output_quantizers.0` of an aimet_torch one.
    """
    content: Any = json.loads(encodings.read_text())
    off = {*names, *content.get(_OFF, ())}
    content[_OFF] = sorted(off)
    activations = content["activation_encodings"]
    if isinstance(activations, list):
        content["activation_encodings"] = [each for each in activations if each["name"] not in off]
    else:
        for module, sides in activations.items():
            for side, quantizers in sides.items():
                sides[side] = {
                    index: each
                    for index, each in quantizers.items()
                    if f"{module}.{side}_quantizers.{index}" not in off
                }
        content["activation_encodings"] = {
            module: kept
            for module, sides in activations.items()
            if (kept := {side: quantizers for side, quantizers in sides.items() if quantizers})
        }
    return json.dumps(content, indent=1, sort_keys=True).encode()
