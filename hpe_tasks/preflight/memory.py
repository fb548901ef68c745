"""Memory: what a new process can have here, and what a run's largest one takes."""

from __future__ import annotations

from pathlib import Path

from hpe_tasks.errors import StorageError
from hpe_tasks.preflight.findings import Finding, gigabytes

LIBRARIES_BYTES = 1_200_000_000
"""Resident memory of a process with torch, onnxruntime and AIMET imported."""

MEMORY_PER_CHECKPOINT_BYTE = 6
"""The peak over all steps beyond libraries and activations, in checkpoints: measured was 1.8 GB in all with the sample
(2.3 MB) and 2.6 GB with pose_resnet_50 (136 MB)."""

ACTIVATIONS_BYTES = 1_000_000_000
"""Batches of images and of activations, whose size the checkpoint's says little of."""


def needed_memory(checkpoint_bytes: int) -> int:
    """Bytes that a run's largest process takes, roughly: libraries, activations and copies of the weights."""
    return LIBRARIES_BYTES + ACTIVATIONS_BYTES + MEMORY_PER_CHECKPOINT_BYTE * checkpoint_bytes


def available_memory(group: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that a new process can have: of the machine, or of the container where that has less.

    None where the system does not say: outside of Linux, such as on macOS, no file tells it.
    """
    try:
        kilobytes = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = 1024 * sum(int(kilobytes[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Pages of files that were read count as used; the kernel gives them up for a program that asks.
        given_up = int(counts.get("inactive_file", 0))
    except (OSError, ValueError):  # no such file outside of containers; "max" where there is no limit
        return available
    return min(available, max(limit - used + given_up, 0))


def check_memory(needed: int, available: int | None) -> Finding:
    """Compare memory; where it is not known what there is, only what is needed is said.

    Raises:
        StorageError: There is not enough for the libraries alone.
    """
    if available is None:
        return Finding(f"about {gigabytes(needed)} needed; this system does not say how much is available")
    said = f"{gigabytes(available)} available, about {gigabytes(needed)} needed"
    hint = "End other programs, use a machine with more memory, or set evaluation.batch_size lower."
    if available < LIBRARIES_BYTES:
        raise StorageError(f"There is not enough memory: {said}.", hint=hint)
    return Finding(said, warning=hint if available < needed else "")
