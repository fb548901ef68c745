"""One process at a time on a GPU of this machine: what an orphan has, its retry waits for."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hpe_tasks.errors import TransientError

LOCKS = "HPE_DEVICE_LOCKS"
"""Environment variable: folder of the lock files; by default one that all processes of this machine find."""
LOCK_CPU = "HPE_LOCK_CPU"
"""Environment variable: where it is set to 1, the processor counts as a device as well."""

_POLL_S = 0.5

log = logging.getLogger(__name__)

_held: dict[Path, int] = {}
_counting = threading.RLock()


@contextmanager
def device_held(device: str, *, patience_s: float = 3600.0) -> Iterator[None]:
    """Keep other processes of this machine from a device meanwhile; a killed holder leaves no lock behind.

    Within one process it may be held several times over.

    Args:
        device: "cuda", "cuda:1" or "cpu"; the processor is shared unless HPE_LOCK_CPU is 1.
        patience_s: How long another holder is waited for.

    Raises:
        TransientError: Another process still has the device; the message names it.
    """
    if device == "cpu" and os.environ.get(LOCK_CPU) != "1":
        yield
        return
    file = _folder() / f"{device_name(device)}.lock"
    with _counting:
        mine = _held.get(file, 0)
        _held[file] = mine + 1
    try:
        if mine:
            yield
            return
        # Others' files may be locked as well as one's own: workers may be of several accounts.
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            _wait(descriptor, device, time.monotonic() + patience_s)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)
    finally:
        with _counting:
            _held[file] -= 1


@contextmanager
def devices_held(device: str, number: int) -> Iterator[None]:
    """As `device_held`, of the first devices of a kind: "cuda" and 2 are those that CUDA counts as 0 and 1."""
    with ExitStack() as held:
        # Everybody in the same order: two that want both never have one each.
        for index in range(number if device == "cuda" else 1):
            held.enter_context(device_held(f"cuda:{index}" if device == "cuda" else device))
        yield


def device_name(device: str) -> str:
    """What a device is called by all processes of this machine: CUDA counts those that a process is shown."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return kind
    shown = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    index = int(number or 0)
    return f"cuda-{shown[index] if index < len(shown) else index}".replace("/", "_")


def _folder() -> Path:
    named = os.environ.get(LOCKS)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / "hpe-devices"
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o1777)  # As the folder above it, whoever made it.
    return folder


def _wait(descriptor: int, device: str, deadline: float) -> None:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "that has just begun"
            if time.monotonic() > deadline:
                raise TransientError(
                    f"The device {device} of this machine is in use by process {holder}.",
                    hint="If a killed worker has left it behind, end it.",
                ) from None
            if not told:
                log.warning("Waiting for process %s, which uses %s", holder, device)
                told = True
            time.sleep(_POLL_S)
        else:
            return
