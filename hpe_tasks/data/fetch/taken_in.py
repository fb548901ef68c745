"""Files of unknown origin when a run takes them in: read a first time in a process of its own, once each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.data.fetch.digests import DigestCache
from hpe_tasks.errors import CheckpointError, DatasetError, HpeError
from hpe_tasks.storage.files import digest_of, write_atomically
from hpe_tasks.untrusted.limits import Limits
from hpe_tasks.untrusted.reader import try_reading

_SAFE = ".safetensors"

# Memory for any file, and bytes of it for each byte of the file. Weights are stored as they are; a graph is copied,
# converted and optimized, and what it computes of an image follows from the image's size; MATLAB files are compressed,
# and each of their cells becomes an object.
_MEMORY = {"weights": (2**30, 8), "onnx": (4 * 2**30, 12), "mat": (2**30, 200)}


def check_checkpoint(config: ModelConfig, file: Path, cache: Path) -> None:
    """Check that a checkpoint fits, as `check_fit`; one that this machine has not seen yet is read apart first.

    Args:
        config: What the file must be.
        file: The file.
        cache: Folder of this machine that remembers what was read.

    Raises:
        CheckpointError: It does not fit, or takes more than the limits of `hpe_tasks.untrusted`.
    """
    from hpe_tasks.models.fit import check_fit

    described = {"model": config.model_dump(mode="json")}
    if config.network.from_file:
        from hpe_tasks.models.onnx_model import try_onnx

        _try_once(try_onnx, file, described, form="onnx", cache=cache, kind=CheckpointError)
    elif not file.name.lower().endswith(_SAFE):
        from hpe_tasks.models.checkpoint import try_checkpoint

        _try_once(try_checkpoint, file, described, form="weights", cache=cache, kind=CheckpointError)
    check_fit(config, file)


def try_weights(config: ModelConfig, file: Path) -> None:
    """Raise CheckpointError for weights that take more than the limits; whether they fit is not looked at.

    For whoever loads them now and then: what was read is not remembered.
    """
    from hpe_tasks.models.checkpoint import try_checkpoint

    if file.is_file() and not file.name.lower().endswith(_SAFE):
        described = {"model": config.model_dump(mode="json")}
        limits = _limits(file, "weights")
        try_reading(try_checkpoint, file, described, limits=limits, kind=CheckpointError)


def try_graph(read: Callable[..., object], file: Path, arguments: dict[str, Any], cache: Path) -> None:
    """Raise CheckpointError for an ONNX file that takes more than the limits of a function that reads it.

    Args:
        read: As `try_reading` takes it.
        file: The file.
        arguments: What else the function is given, JSON-able.
        cache: Folder of this machine that remembers what was read.
    """
    _try_once(read, file, arguments, form="onnx", cache=cache, kind=CheckpointError)


def try_matlab_file(file: Path, cache: Path) -> None:
    """Raise DatasetError for a .mat file that takes more than the limits; what is in it is not looked at."""
    from hpe_tasks.data.mpii.mat import try_mat

    _try_once(try_mat, file, {}, form="mat", cache=cache, kind=DatasetError)


def _try_once(
    read: Callable[..., object],
    file: Path,
    arguments: dict[str, Any],
    *,
    form: str,
    cache: Path,
    kind: type[HpeError],
) -> None:
    if not file.is_file():
        return  # Whoever reads it says so.
    digests = DigestCache(cache / "digests" / "archives.json")
    known = [read.__module__, read.__qualname__, digests.sha256(file.resolve()), arguments]
    digests.save()
    mark = cache / "taken_in" / digest_of(known)[:32]
    if not mark.exists():
        try_reading(read, file, arguments, limits=_limits(file, form), kind=kind)
        write_atomically(mark, b"")


def _limits(file: Path, form: str) -> Limits:
    base_bytes, growth = _MEMORY[form]
    return Limits.of(file, base_bytes=base_bytes, growth=growth)
