"""One process at a time on a GPU of this machine: what an orphan has, its retry waits for."""

from __future__ import annotations

import csv
import fcntl
import logging
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hpe_tasks.errors import TransientError

LOCKS = "HPE_DEVICE_LOCKS"
"""Environment variable: folder of the lock files; by default one that all processes of this machine find."""
LOCK_CPU = "HPE_LOCK_CPU"
"""Environment variable: where it is set to 1, the processor counts as a device as well."""

_POLL_S = 0.5
_ANSWER_S = 60.0

log = logging.getLogger(__name__)


@dataclass
class _Lock:
    """A lock of this process: the file is open while anybody within the process holds it."""

    descriptor: int = -1
    holders: int = 0


_locks: dict[Path, tuple[threading.Lock, _Lock]] = {}
_finding = threading.Lock()


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
    with _finding:
        changing, lock = _locks.setdefault(file, (threading.Lock(), _Lock()))
    with changing:
        if not lock.holders:
            lock.descriptor = _locked(file, device, time.monotonic() + patience_s)
        lock.holders += 1
    try:
        yield
    finally:
        # Whoever lets go of it last: one that holds it longer than the one that was first keeps it.
        with changing:
            lock.holders -= 1
            if not lock.holders:
                os.close(lock.descriptor)


def _locked(file: Path, device: str, deadline: float) -> int:
    """Open and lock a file; its descriptor."""
    # Others' files may be locked as well as one's own: workers may be of several accounts.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        _wait(descriptor, device, deadline)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def devices_held(device: str, number: int) -> Iterator[None]:
    """As `device_held`, of the first devices of a kind: "cuda" and 2 are those that CUDA counts as 0 and 1."""
    with ExitStack() as held:
        # Everybody in the same order: two that want both never have one each.
        for index in range(number if device == "cuda" else 1):
            held.enter_context(device_held(f"cuda:{index}" if device == "cuda" else device))
        yield


def device_name(device: str) -> str:
    """What a device is called by all processes of this machine, whichever GPUs each is shown and by which names.

    CUDA counts those that a process is shown. A GPU is called by its UUID, so that a process that is shown it as `1`
    and one that is shown it as `GPU-8f3c…` mean one; by its number where `nvidia-smi` does not tell.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return kind
    shown = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    index = int(number or 0)
    name = shown[index] if index < len(shown) else str(index)
    gpus = _gpus(os.environ.get("PATH", ""))
    # Of unlike GPUs CUDA counts the fastest first, nvidia-smi as they are plugged in: one's number is not the other's.
    alike = len({gpu.model for gpu in gpus}) <= 1 or os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    by_number = [gpu.uuid for gpu in gpus if alike and gpu.number == name]
    same = by_number or [gpu.uuid for gpu in gpus if gpu.uuid.startswith(name)]
    return f"cuda-{same[0] if len(same) == 1 else name}".replace("/", "_")


@dataclass(frozen=True)
class _Gpu:
    number: str
    uuid: str
    model: str


@cache
def _gpus(path: str) -> tuple[_Gpu, ...]:
    """All GPUs of this machine, as `nvidia-smi` in these folders tells; CUDA is not touched, which forks would mind."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=_ANSWER_S, check=True, env={**os.environ, "PATH": path}
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("nvidia-smi tells no GPU: %s", error)
        return ()
    rows = csv.reader(told.stdout.splitlines(), skipinitialspace=True)
    return tuple(_Gpu(*row) for row in rows if len(row) == 3)


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
