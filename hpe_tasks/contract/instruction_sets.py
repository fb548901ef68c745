"""Which int8 instruction sets this process can use, as the C library knows it: it has asked the processor itself.

/proc/cpuinfo describes the machine, even to a process whose processor is emulated (an image for another architecture,
run by QEMU) or hides instruction sets.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from typing import Any

# Where glibc keeps them: number of the leaf (<bits/platform/x86.h>: 1 is CPUID leaf 7, 6 its subleaf 1), register, bit.
_EAX, _EBX, _ECX, _EDX = range(4)
_X86 = {
    "avx2": (1, _EBX, 5),
    "avx512bw": (1, _EBX, 30),
    "avx512_vnni": (1, _ECX, 11),
    "avx_vnni": (6, _EAX, 4),
    "avx_vnni_int8": (6, _EDX, 4),
    "amx_int8": (1, _EDX, 25),
}
# glibc 2.36 does not say whether these can be used; they can where the feature behind them can.
_USABLE_WITH = {"avx_vnni_int8": "avx_vnni"}
# Kinds of auxiliary values and their bits (Linux, arch/arm64/include/uapi/asm/hwcap.h).
_AT_HWCAP, _AT_HWCAP2 = 16, 26
_ARM64 = {"asimddp": (_AT_HWCAP, 20), "i8mm": (_AT_HWCAP2, 13), "sve": (_AT_HWCAP, 22)}

_Leaf = ctypes.c_uint32 * 8  # EAX to EDX as CPUID shows them, then as this system lets programs use them


def instruction_sets() -> tuple[str, ...] | None:
    """Those that matter to int8 kernels, named as in /proc/cpuinfo, such as `avx512_vnni`.

    None where the C library does not tell: outside of Linux, on other processors than x86-64 and arm64, with glibc
    before 2.33, with musl.
    """
    if sys.platform != "linux":
        return None
    readers = {"x86_64": _read_cpuid, "aarch64": _read_auxiliary_values}
    reader = readers.get(platform.machine())
    return None if reader is None else reader()


def _read_cpuid() -> tuple[str, ...] | None:
    """From glibc (<sys/platform/x86.h>, glibc 2.33 and later); None without it."""
    leaf = _function("__x86_get_cpuid_feature_leaf", ctypes.POINTER(_Leaf), ctypes.c_uint)
    if leaf is None:
        return None
    leaves = {number: list(leaf(number).contents) for number, _, _ in _X86.values()}

    def has(feature: str) -> bool:
        number, register, bit = _X86[feature]
        usable = has(_USABLE_WITH[feature]) if feature in _USABLE_WITH else leaves[number][4 + register] >> bit & 1
        return bool(usable and leaves[number][register] >> bit & 1)

    return tuple(filter(has, _X86))


def _read_auxiliary_values() -> tuple[str, ...] | None:
    """From what the kernel hands every program; None without getauxval."""
    read = _function("getauxval", ctypes.c_ulong, ctypes.c_ulong)
    if read is None:
        return None
    return tuple(feature for feature, (kind, bit) in _ARM64.items() if read(kind) >> bit & 1)


def _function(name: str, result: type, argument: type) -> Callable[[int], Any] | None:
    """A function of the C library that takes a number; None where the library has none of this name."""
    try:
        function = ctypes.CDLL(None)[name]
    except AttributeError:
        return None
    function.restype, function.argtypes = result, [argument]
    return function
