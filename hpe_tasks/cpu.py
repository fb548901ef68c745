"""The CPU of this machine, as far as it decides what int8 kernels compute and how fast."""

from __future__ import annotations

import platform
from pathlib import Path

_INT8_FEATURES = ("avx2", "avx512bw", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm", "sve")


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name, such as `AMD EPYC 7R13`; that of the machine where the kernel tells none (arm64)."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    return platform.machine()


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The machine's name and its int8 instruction sets, such as `avx512_vnni`; the name alone outside of Linux."""
    if not cpuinfo.is_file():
        return (platform.machine(),)
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            flags = set(value.split())
            return (platform.machine(), *(feature for feature in _INT8_FEATURES if feature in flags))
    return (platform.machine(),)
