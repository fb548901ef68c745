"""What a piece of work takes of this process: time, and memory as Linux counts it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PROCESS = Path("/proc/self")
_FORGET_PEAK = "5"
"""Of `clear_refs` in proc(5): set the peak of the resident memory to what is resident now."""


@dataclass
class Spent:
    """What was spent, once the work has ended.

    Attributes:
        peak_memory_bytes: The most resident memory meanwhile; None where the system does not tell it for the time of
            the work alone.
    """

    seconds: float = 0.0
    peak_memory_bytes: int | None = None


@contextmanager
def spending(process: Path = _PROCESS) -> Iterator[Spent]:
    """Count what is spent inside, also when it ends with an error.

    Args:
        process: The folder in which the system tells of this process.
    """
    spent, began, counts = Spent(), time.monotonic(), _forget_peak(process)
    try:
        yield spent
    finally:
        spent.seconds = time.monotonic() - began
        spent.peak_memory_bytes = _peak_bytes(process) if counts else None


def _forget_peak(process: Path) -> bool:
    try:
        with (process / "clear_refs").open("r+") as file:
            file.write(_FORGET_PEAK)
    except OSError:  # outside of Linux, and where a container forbids it
        return False
    return True


def _peak_bytes(process: Path) -> int | None:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next((line.split()[1] for line in lines if line.startswith("VmHWM:")), None)
    return None if kilobytes is None else 1024 * int(kilobytes)
