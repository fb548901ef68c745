"""Run a program as if on an older x86-64 processor: `python tools/as_processor.py avx2 -- python script.py`.

The libraries that the program loads see a processor with fewer instruction sets (their CPUID instructions are answered,
`as_processor.c` says how), so onnxruntime and NumPy choose the kernels that they choose there. The kernels themselves
run natively: results are those of such a processor, and times are those that this machine takes with its kernels.
Programs started by the program are treated alike. Needs Linux on x86-64 and a C compiler; nothing is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")

# The instruction set that each processor must find on this machine, and what the C library is told to leave out.
_AVX512 = ("AVX512F", "AVX512VL", "AVX512BW", "AVX512DQ", "AVX512CD")
PROCESSORS = {
    "sse4": ("sse4_2", (*_AVX512, "AVX2", "AVX", "FMA", "BMI2", "BMI1", "ERMS", "RTM")),
    "avx2": ("avx2", _AVX512),
    "avx512": ("avx512bw", ()),
}
"""SSE4.2 as Nehalem has it; AVX2 as Haswell or Zen 3; AVX-512 without VNNI as Skylake-SP."""


class UnavailableError(Exception):
    """This machine's processor cannot stand for that one; the message says why."""


class MissingCompilerError(UnavailableError):
    """What is missing can be installed."""


def _flags() -> set[str]:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return {flag for line in text.splitlines() if line.startswith("flags") for flag in line.partition(":")[2].split()}


def compiled_library() -> Path:
    """The shared library made from `as_processor.c`: once for each of its versions, in the user's cache folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise MissingCompilerError("there is no C compiler (Debian package gcc and libc6-dev)")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "as-processor"
    library = cache / f"{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not library.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            made = Path(folder) / "library.so"
            command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(made), str(SOURCE), "-ldl"]
            built = subprocess.run(command, capture_output=True, text=True, check=False)
            if built.returncode != 0:
                raise MissingCompilerError(f"{SOURCE.name} does not compile: {built.stderr.strip()}")
            made.replace(library)
    return library


def environment(processor: str, inherited: dict[str, str] | None = None) -> dict[str, str]:
    """Variables under which programs run as `processor`, a key of PROCESSORS; raises UnavailableError."""
    needs, without = PROCESSORS[processor]
    if os.uname().machine != "x86_64":
        raise UnavailableError(f"this machine is {os.uname().machine}, not x86_64")
    if needs not in _flags():
        raise UnavailableError(f"this machine's processor has no {needs}")
    variables = dict(os.environ if inherited is None else inherited)
    library = str(compiled_library())
    variables |= {"AS_PROCESSOR": processor, "LD_AUDIT": library, "LD_PRELOAD": library}
    if processor == "sse4" and "OPENBLAS_CORETYPE" in variables:
        # OpenBLAS takes the word for it, and dies of an instruction that this processor does not have.
        variables["OPENBLAS_CORETYPE"] = "Nehalem"
    if without:
        variables["GLIBC_TUNABLES"] = "glibc.cpu.hwcaps=" + ",".join(f"-{name}" for name in without)
    return variables


def main() -> int:
    """Replace this process by the program, or say why not (exit status 125)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("processor", choices=PROCESSORS)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="program and its arguments, after --")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("a program is needed after --")
    try:
        variables = environment(options.processor)
    except UnavailableError as error:
        print(f"as_processor: {error}", file=sys.stderr)
        return 125
    os.execvpe(command[0], command, variables)


if __name__ == "__main__":
    sys.exit(main())
