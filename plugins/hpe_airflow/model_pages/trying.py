"""Trying a picture: what a version finds in it, beside the one that is served, each in a process with bounds."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpe_airflow.model_pages import store, views
from hpe_tasks.config.environment import Settings
from hpe_tasks.contract.names import MANIFEST, SIGNATURE
from hpe_tasks.errors import BadInputError, ConfigError, TransientError
from hpe_tasks.registry.manifest import MODEL_ROLE, GoldenImage, GoldenPerson, ModelManifest
from hpe_tasks.storage.files import write_atomically
from hpe_tasks.untrusted.limits import Limits
from hpe_tasks.untrusted.reader import try_reading

LARGEST_BYTES = 4_000_000
"""Of a picture: the function takes no larger request."""

_LIMITS = Limits(memory_bytes=1_500_000_000, cpu_s=30, wall_s=60)
_ONE_AT_A_TIME = threading.Lock()
_NEEDED = ("numpy", "onnxruntime", "PIL")


@dataclass(frozen=True)
class Tried:
    """What a version has found.

    Attributes:
        picture: None where it has found nobody, or refused the picture.
        told: How many people, or why none.
    """

    manifest: ModelManifest
    picture: views.DrawnPicture | None
    told: str


def why_not() -> str:
    """Why pictures cannot be tried on this API server; empty where they can."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed on this API server" if missing else ""


def try_picture(data: bytes, manifests: tuple[ModelManifest, ...]) -> tuple[Tried, ...]:
    """What each of these versions finds in a picture; one picture at a time.

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
            return tuple(_tried(one, picture, Path(folder) / "answer") for one in manifests)
    finally:
        _ONE_AT_A_TIME.release()


def _tried(manifest: ModelManifest, picture: Path, answer: Path) -> Tried:
    from hpe_tasks.local_service.trial import find_people

    arguments = {"model": str(_folder(manifest)), "answer": str(answer)}
    try_reading(find_people, picture, arguments, limits=_LIMITS, kind=BadInputError)
    found: dict[str, Any] = json.loads(answer.read_bytes())
    body = found["body"]
    if found["status"] != 200:
        return Tried(manifest, None, str(body.get("error", {}).get("message", "The function refused the picture.")))
    people = [_person(one, manifest.serving.joints) for one in body["people"]]
    golden = GoldenImage(file="picture", width=body["image"]["width"], height=body["image"]["height"], people=people)
    told = f"{len(people)} found" + "".join(f", score {one['score']:.2f}" for one in body["people"][:3])
    return Tried(manifest, views.drawn(manifest, golden), told)


def _person(person: dict[str, Any], names: tuple[str, ...]) -> GoldenPerson:
    there = {one["name"]: (one["x"], one["y"], one["score"]) for one in person["joints"]}
    return GoldenPerson(box=None, joints=tuple(there.get(name) for name in names))


def _folder(manifest: ModelManifest) -> Path:
    """Manifest, signature and model in this machine's cache, as a package of the function has them."""
    registry = store.registry()
    stored = registry.stored(manifest.name, manifest.version)
    folder = Settings.from_environment().cache / "tried" / stored.sha256
    if not (folder / MANIFEST).is_file():
        registry.download(manifest, MODEL_ROLE, folder / "model.onnx")
        signature = registry.signature(manifest.name, manifest.version)
        if signature is not None:
            write_atomically(folder / SIGNATURE, signature)
        write_atomically(folder / MANIFEST, stored.data)
    return folder
