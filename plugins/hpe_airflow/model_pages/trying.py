"""Trying a picture: what a version finds in it before and after quantization, beside what is served.

Each file is run in a process of its own with bounds, by the very code that serves.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpe_airflow.model_pages import trial_folders, views
from hpe_tasks.errors import BadInputError, ConfigError, HpeError, TransientError
from hpe_tasks.registry.manifest import GoldenImage, GoldenPerson, ModelManifest
from hpe_tasks.untrusted.limits import Limits
from hpe_tasks.untrusted.reader import try_reading

LARGEST_BYTES = 4_000_000
"""Of a picture: the function takes no larger request."""

_FINDER = ("hpe_tasks.local_service.trial", "find_people")
_MEMORY_BYTES, _GROWTH = 1_500_000_000, 6
_CPU_S, _WALL_S = 30, 60
_ONE_AT_A_TIME = threading.Lock()
_NEEDED = ("numpy", "onnxruntime", "PIL")


@dataclass(frozen=True)
class Tried:
    """What a file of a version has found.

    Attributes:
        form: `FP32` before quantization, or `int8`.
        picture: None where it has found nobody, or refused the picture.
        told: How many people, or why none.
    """

    manifest: ModelManifest
    form: str
    picture: views.DrawnPicture | None
    told: str


def why_not() -> str:
    """Why pictures cannot be tried on this API server; empty where they can."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed on this API server" if missing else ""


def try_picture(data: bytes, manifest: ModelManifest, beside: tuple[ModelManifest, ...]) -> tuple[Tried, ...]:
    """What a version finds in a picture before and after quantization, and what others find; one picture at a time.

    Raises:
        BadInputError: It is too large, empty, or took more than it may.
        ConfigError: The libraries are not installed here.
        TransientError: Another picture is being looked at.
    """
    if why_not():
        raise ConfigError(f"No picture can be tried: {why_not()}.", hint="Try it with `hpe serve`.")
    if not 0 < len(data) <= LARGEST_BYTES:
        raise BadInputError(
            f"The picture has {len(data):,} bytes.", hint=f"Take a JPEG, PNG or WebP of up to {LARGEST_BYTES:,} bytes."
        )
    if not _ONE_AT_A_TIME.acquire(timeout=20):
        raise TransientError("Another picture is being looked at.", hint="Try again in a minute.")
    try:
        with tempfile.TemporaryDirectory(prefix="hpe-try-") as folder:
            picture = Path(folder) / "picture"
            picture.write_bytes(data)
            after = [_tried(one, "int8", picture, trial_folders.quantized) for one in (manifest, *beside)]
            return (_tried_before(manifest, picture), *after)
    finally:
        _ONE_AT_A_TIME.release()


def _tried_before(manifest: ModelManifest, picture: Path) -> Tried:
    """FP32, or why there is none: what is served is shown all the same."""
    try:
        return _tried(manifest, "FP32", picture, trial_folders.before_quantization)
    except HpeError as error:
        return Tried(manifest, "FP32", None, error.message)


def _tried(manifest: ModelManifest, form: str, picture: Path, folder_of: Callable[[ModelManifest], Path]) -> Tried:
    folder, answer = folder_of(manifest), picture.with_name("answer")
    memory_bytes = _MEMORY_BYTES + _GROWTH * (folder / "model.onnx").stat().st_size
    limits = Limits(memory_bytes, cpu_s=_CPU_S, wall_s=_WALL_S)
    arguments = {"model": str(folder), "answer": str(answer)}
    try_reading(_FINDER, picture, arguments, limits=limits, kind=BadInputError)
    found: dict[str, Any] = json.loads(answer.read_bytes())
    body = found["body"]
    if found["status"] != 200:
        message = body.get("error", {}).get("message", "The function refused the picture.")
        return Tried(manifest, form, None, str(message))
    people = [_person(one, manifest.serving.joints) for one in body["people"]]
    golden = GoldenImage(file="picture", width=body["image"]["width"], height=body["image"]["height"], people=people)
    told = f"{len(people)} found" + "".join(f", score {one['score']:.2f}" for one in body["people"][:3])
    return Tried(manifest, form, views.drawn(manifest, golden), told)


def _person(person: dict[str, Any], names: tuple[str, ...]) -> GoldenPerson:
    there = {one["name"]: (one["x"], one["y"], one["score"]) for one in person["joints"]}
    return GoldenPerson(box=None, joints=tuple(there.get(name) for name in names))
