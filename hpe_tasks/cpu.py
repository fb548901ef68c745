"""The CPU of this machine, as far as it decides what int8 kernels compute and how fast."""

from __future__ import annotations

import platform
from pathlib import Path

from hpe_tasks.instruction_sets import instruction_sets

_INT8_FEATURES = ("avx2", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm", "sve")


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name, such as `AMD EPYC 7R13`; that of the machine where the kernel tells none (arm64)."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    return platform.machine()


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
