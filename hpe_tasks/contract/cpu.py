"""The CPU of this machine, as far as it decides what int8 kernels compute and how fast."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from hpe_tasks.contract.instruction_sets import instruction_sets

VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Features of which any lets onnxruntime add products of unsigned and signed 8-bit numbers in 32 bits."""

_INT8_FEATURES = ("avx2", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm", "sve")

# Kernels for ARM name a core by a number: these are AWS's Graviton 2, 3 and 4.
_ARM_CORES = {"0xd0c": "ARM Neoverse N1", "0xd40": "ARM Neoverse V1", "0xd4f": "ARM Neoverse V2"}


def cpu_features(cpuinfo: Path | None = None) -> tuple[str, ...]:
    """The machine's name and the int8 instruction sets that this process can use, such as `avx512_vnni`.

    The name alone outside of Linux.

    Args:
        cpuinfo: What to read; by default the C library is asked, and /proc/cpuinfo read where that does not tell.
    """
    if cpuinfo is None and (seen := instruction_sets()) is not None:
        return (platform.machine(), *seen)
    cpuinfo = cpuinfo or Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return (platform.machine(),)
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            flags = set(value.split())
            return (platform.machine(), *(feature for feature in _INT8_FEATURES if feature in flags))
    return (platform.machine(),)


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor calls itself, such as `AMD EPYC 9R14`; the kind of machine where nothing tells."""
    for line in cpuinfo.read_text().splitlines() if cpuinfo.is_file() else ():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name" and value:
            return " ".join(value.split())
        if key == "CPU part":
            return _ARM_CORES.get(value, f"ARM core {value}")
    return platform.machine()


def available_threads(cpu_max: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPUs that this process may keep busy.

    Those it is bound to, or fewer where OMP_NUM_THREADS, as for torch, or a container's quota says so.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal():
        bound = max(1, min(bound, int(asked)))
    if cpu_max.is_file():
        quota, _, period = cpu_max.read_text().partition(" ")
        if quota != "max":
            return max(1, min(bound, int(quota) // int(period)))
    return bound
