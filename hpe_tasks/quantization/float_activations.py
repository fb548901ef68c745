"""A stored simulation with some activations left in float, which have no encoding, or with codes of another range."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Code = tuple[float, int]
"""Scale as float32, and zero point counted from 0."""

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


def stored_codes(encodings: Path) -> dict[str, Code]:
    """Scale and zero point of every activation in a file of encodings, by the quantizer's name as in `without`."""
    content: Any = json.loads(encodings.read_text())
    found = {}
    for name, entry in _entries(content["activation_encodings"]):
        scale, offset = entry["scale"], entry["offset"]
        if not isinstance(scale, list):
            found[name] = code_of(scale, -offset)
        elif len(scale) == 1:
            found[name] = code_of(scale[0], -offset[0])
    return found


def with_codes(encodings: Path, codes: Mapping[str, Code]) -> bytes:
    """The file of encodings with other codes for these activations.

    Args:
        encodings: As one of the backends has written it.
        codes: Of 8 bits, by names as in `without`.
    """
    content: Any = json.loads(encodings.read_text())
    for name, entry in _entries(content["activation_encodings"]):
        if name not in codes:
            continue
        scale, zero = codes[name]
        if "min" in entry:
            low, high = code_range(codes[name])
            entry.update(scale=scale, offset=-zero, min=low, max=high)
        else:
            entry.update(scale=[scale], offset=[-zero])
    return json.dumps(content, indent=1, sort_keys=True).encode()


def code_of(scale: float, zero_point: float) -> Code:
    """A code as what is stored is compared by."""
    return float(np.float32(scale)), int(zero_point)


def code_range(code: Code) -> tuple[float, float]:
    """The least and the largest value that have a code, of 8 bits."""
    scale, zero = code
    return -zero * scale, (255 - zero) * scale


def _entries(activations: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The encodings of activations, by name; changed where they are."""
    if isinstance(activations, list):
        yield from ((each["name"], each) for each in activations)
        return
    for module, sides in activations.items():
        for side, quantizers in sides.items():
            yield from ((f"{module}.{side}_quantizers.{index}", each) for index, each in quantizers.items())
