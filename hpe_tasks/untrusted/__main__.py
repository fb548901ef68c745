"""The process that `hpe_tasks.untrusted.reader` starts: it limits itself, reads one file, and says how that ended."""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from hpe_tasks.errors import HpeError
from hpe_tasks.faults import reached

_PR_SET_PDEATHSIG = 1
# How torch, onnxruntime and C++ itself say it; Python's own libraries raise MemoryError.
_NO_MEMORY = re.compile(r"bad_alloc|bad allocation|(?:can't|cannot|[Ff]ailed to) allocate")


def main() -> None:
    """Do what the request on standard input says."""
    _end_with_parent()
    reached("a process that reads begins")
    request = json.load(sys.stdin)
    module, name = request["read"]
    # Libraries come first: torch alone takes gigabytes of address space.
    read = getattr(importlib.import_module(module), name)
    _limit(request["memory_bytes"], request["cpu_s"])
    told = _try(read, request["file"], request["arguments"])
    Path(request["report"]).write_text(told, encoding="utf-8")
    reached("a process that reads ends")


def _try(read: Any, file: str, arguments: dict[str, Any]) -> str:
    try:
        read(file, **arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, the process that started this one tells it
        if _lacked_memory(error):
            return "memory"
        return "read" if isinstance(error, HpeError) else f"{type(error).__name__}: {str(error)[:1000]}"
    return "read"


def _lacked_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _limit(memory_bytes: int, cpu_s: int) -> None:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, taken + memory_bytes),
        (resource.RLIMIT_CPU, cpu_s + int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])) + 1),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
