"""What a version is tried with: its own file, and its network before quantization, each in a folder of the cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from hpe_airflow.model_pages import store
from hpe_tasks.config.environment import Settings
from hpe_tasks.config.model import ModelConfig
from hpe_tasks.contract.keys import blob_key
from hpe_tasks.contract.names import MANIFEST, SIGNATURE
from hpe_tasks.errors import AccessError, CheckpointError
from hpe_tasks.local_service.full_precision import WRITER, manifest_before, network_of
from hpe_tasks.registry.checkpoints import checkpoint_suffix
from hpe_tasks.registry.manifest import CHECKPOINT_ROLE, FP32_ROLE, MODEL_ROLE, ManifestFile, ModelManifest
from hpe_tasks.storage.files import sha256_file
from hpe_tasks.storage.folders import make_folder
from hpe_tasks.untrusted.limits import Limits
from hpe_tasks.untrusted.reader import try_reading

_MODEL = "model.onnx"
_BUILT_WITH = ("torch", "safetensors")

_MEMORY_BYTES, _GROWTH = 4 * 2**30, 12
"""Of writing FP32, whatever the checkpoint's size, and for each of its bytes: weights are read, copied and traced."""
_CPU_S, _WALL_S = 300, 300


def quantized(manifest: ModelManifest) -> Path:
    """Manifest, signature and model, as a package of the function has them."""
    registry = store.registry()
    stored = registry.stored(manifest.name, manifest.version)

    def fill(folder: Path) -> None:
        registry.download(manifest, MODEL_ROLE, folder / _MODEL)
        signature = registry.signature(manifest.name, manifest.version)
        if signature is not None:
            (folder / SIGNATURE).write_bytes(signature)
        (folder / MANIFEST).write_bytes(stored.data)

    return _made(stored.sha256, fill)


def why_no_fp32(manifest: ModelManifest) -> str:
    """Why the network before quantization cannot be shown here, in a sentence; empty where it can."""
    if _published(manifest) is not None:
        return ""
    try:
        _network(manifest)
    except AccessError as error:
        return error.message
    return ""


def before_quantization(manifest: ModelManifest) -> Path:
    """The same of the network before quantization.

    Of a version that was published without it, a process of its own writes it from the checkpoint, once.

    Raises:
        AccessError: Here it cannot be made, or not of this version.
        CheckpointError: The checkpoint does not fit, or reading it took more than it may.
        DigestError: The file in the registry is damaged.
    """
    published, registry = _published(manifest), store.registry()
    network = _network(manifest) if published is None else None
    stored = registry.stored(manifest.name, manifest.version)

    def fill(folder: Path) -> None:
        if network is None:
            registry.download(manifest, FP32_ROLE, folder / _MODEL)
        else:
            checkpoint = folder / f"checkpoint{checkpoint_suffix(manifest)}"
            registry.download(manifest, CHECKPOINT_ROLE, checkpoint)
            _write(checkpoint, network, folder / _MODEL)
            checkpoint.unlink()
        sha256 = sha256_file(folder / _MODEL)
        size_bytes = (folder / _MODEL).stat().st_size
        file = ManifestFile(role=MODEL_ROLE, blob=blob_key(sha256), sha256=sha256, size_bytes=size_bytes)
        (folder / MANIFEST).write_bytes(manifest_before(manifest, file).to_bytes())

    return _made(hashlib.sha256(f"fp32 {stored.sha256}".encode()).hexdigest(), fill)


def _made(name: str, fill: Callable[[Path], None]) -> Path:
    folder = Settings.from_environment().cache / "tried" / name
    make_folder(folder, fill)
    return folder


def _published(manifest: ModelManifest) -> ManifestFile | None:
    return next((file for file in manifest.files if file.role == FP32_ROLE), None)


def _network(manifest: ModelManifest) -> ModelConfig:
    missing = [name for name in _BUILT_WITH if importlib.util.find_spec(name) is None]
    if missing:
        raise AccessError(
            f"The network cannot be built here: {' and '.join(missing)} not installed on this API server."
        )
    return network_of(manifest)


def _write(checkpoint: Path, network: ModelConfig, file: Path) -> None:
    limits = Limits(_MEMORY_BYTES + _GROWTH * checkpoint.stat().st_size, cpu_s=_CPU_S, wall_s=_WALL_S)
    answer = checkpoint.with_name("answer.json")
    arguments = {"model": network.model_dump(mode="json"), "file": str(file), "answer": str(answer)}
    try_reading(WRITER, checkpoint, arguments, limits=limits, kind=CheckpointError)
    problem = json.loads(answer.read_bytes())["problem"]
    answer.unlink()
    if problem:
        raise CheckpointError(problem)
