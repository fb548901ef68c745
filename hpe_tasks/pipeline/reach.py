"""Which code a stored result depends on."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from hpe_tasks.storage.files import digest_of

_DECIDING_LIBRARIES = {
    *("aimet-torch", "aimet-onnx", "torch", "torchvision", "onnx", "onnxruntime"),
    *("numpy", "scipy", "opencv-python-headless", "pillow", "faster-coco-eval", "pycocotools", "great_expectations"),
}
"""Libraries whose code decides results: names as their distributions have them."""


@cache
def code_version(_: Callable[..., Any]) -> str:
    """Digest of this package's source and of the libraries that decide results: other code, other keys."""
    package = Path(__file__).parents[1]
    sources = {str(p.relative_to(package)): p.read_text(encoding="utf-8") for p in sorted(package.rglob("*.py"))}
    installed = {d.name: d.version for d in importlib.metadata.distributions() if d.name in _DECIDING_LIBRARIES}
    return digest_of([sources, installed])
