"""Processors on which the tests run Python programs, whatever this machine's own is.

`run_on("avx2", ["-c", code, "an argument"])` runs a program as `python -c …` would, on a processor of the table
PROCESSORS, and gives back what it printed. An older x86-64 processor is this one with its newer instruction sets hidden
(`tools/as_processor.py`): native speed. Where this machine does not have what is to be shown, QEMU's user mode
emulates the processor: Haswell, Nehalem, and arm64 with Lambda's own Python and the libraries of the function's arm64
package (`arm64_python.py`), so there a program may import NumPy, onnxruntime, Pillow and PyNaCl, and what it puts on
`sys.path` itself. QEMU takes three to ten seconds to start Python with onnxruntime, and runs kernels 20 to 100 times
slower.

What cannot be run on this machine is not passed over in silence: `need` skips the test, or fails it where what is
missing can be installed and CI promised it, and the last line of the test run names the processor and the reason.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from hpe_tasks.contract.cpu import cpu_features
from support import arm64_python
from support.requirements import missing

_TOOL = Path(__file__).parents[2] / "tools" / "as_processor.py"
_WATCHED = Path(__file__).with_name("int8_runs.py")


@dataclass(frozen=True)
class Processor:
    """A processor to run programs on.

    Attributes:
        name: Key of PROCESSORS, id of parameterized tests.
        title: What it stands for.
        means: `own` (this machine as it is), `masked` (this machine with instruction sets hidden), `qemu`.
        known_as: Its name for `as_processor.py` or QEMU.
        machine: Whose machine code it runs.
        exact: Whether int8 kernels there add products without a loss, whatever the weights; None where only the
            machine can say.
    """

    name: str
    title: str
    means: str
    known_as: str = ""
    machine: str = "x86_64"
    exact: bool | None = True


_OWN_MACHINE = "arm64" if platform.machine() == "aarch64" else "x86_64"

# onnxruntime 1.31 on SSE4 widens to 16 bits before it multiplies; pairs of products in 16 bits are of AVX2 and AVX-512.
PROCESSORS = {
    processor.name: processor
    for processor in (
        Processor("host", "this machine", "own", machine=_OWN_MACHINE, exact=None),
        Processor("vnni", "x86-64 with VNNI", "own"),
        Processor("avx512", "AVX-512 without VNNI", "masked", "avx512", exact=False),
        Processor("avx2", "AVX2", "masked", "avx2", exact=False),
        Processor("sse4", "SSE4", "masked", "sse4"),
        Processor("haswell", "Haswell", "qemu", "Haswell", exact=False),
        Processor("nehalem", "Nehalem", "qemu", "Nehalem"),
        Processor("cortex-a72", "arm64 without dot products (Cortex-A72)", "qemu", "cortex-a72", machine="arm64"),
        Processor("neoverse-n1", "arm64 with dot products (Graviton 2)", "qemu", "neoverse-n1", machine="arm64"),
        Processor("arm64-max", "arm64 with i8mm and SVE", "qemu", "max,pauth-impdef=on", machine="arm64"),
    )
}

# Names in PROCESSORS of those on which an int8 file was run in this test run.
ran: set[str] = set()


@dataclass(frozen=True)
class Absence:
    """Why a processor cannot be had; `installable`: a tool would mend it."""

    reason: str
    installable: bool


@cache
def as_processor() -> ModuleType:
    """The module tools/as_processor.py."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("as_processor", _TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def absence(name: str) -> Absence | None:
    """Why programs cannot be run on this processor here; None where they can."""
    processor = PROCESSORS[name]
    if name == "host":
        return None
    if processor.machine == "x86_64" and platform.machine() != "x86_64":
        return Absence(f"the libraries here are {platform.machine()}'s", installable=False)
    if name == "vnni":
        has = {"avx512_vnni", "avx_vnni"} & set(cpu_features())
        return None if has else Absence("this machine's processor has none, and QEMU emulates none", installable=False)
    if processor.means == "masked":
        try:
            as_processor().environment(processor.known_as)
        except as_processor().MissingCompilerError as error:
            return Absence(str(error), installable=True)
        except as_processor().UnavailableError as error:
            return Absence(str(error), installable=False)
        return None
    if processor.machine == "arm64":
        said = arm64_python.why_not()
        return None if said is None else Absence(said, installable=True)
    if shutil.which("qemu-x86_64") is None:
        return Absence("qemu-x86_64 is not installed (Debian package qemu-user)", installable=True)
    return None


def need(name: str) -> None:
    """Skip the running test where the processor cannot be had; fail it where a tool is missing that CI promises."""
    said = absence(name)
    if said is None:
        return
    sentence = f"{PROCESSORS[name].title} cannot be had: {said.reason}"
    if said.installable:
        missing(sentence)
    pytest.skip(sentence)


def run_on(
    name: str,
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str] | None = None,
    python: Path | None = None,
    libraries: Iterable[Path] = (),
    timeout_s: float = 300,
) -> str:
    """Run `python ARGUMENTS` on a processor; returns what it wrote to standard output.

    The test is skipped, or failed, where the processor cannot be had (`need`). An int8 file that the program runs is
    noted for the last line of the test run.

    Args:
        name: Of a processor in PROCESSORS.
        arguments: `-c` and code, `-m` and a module, or a script; then the program's own arguments.
        environment: Variables beside those of this process (on arm64: beside none).
        python: Interpreter on x86-64; by default the one that runs the tests. arm64 has its own, of version 3.13.
        libraries: Folders that go before all others on `sys.path`. On arm64 without any, the libraries of the
            function's package are put there.
        timeout_s: Longest time.

    Raises:
        AssertionError: The program failed; with its standard error.
    """
    need(name)
    processor = PROCESSORS[name]
    interpreter, variables = _interpreter(processor, python)
    folders = [str(folder) for folder in libraries]
    if processor.machine == "arm64" and processor.means == "qemu" and not folders:
        folders = [str(arm64_libraries())]
    variables = {**variables, **(environment or {})}
    if folders:
        inherited = variables.get("PYTHONPATH")
        variables["PYTHONPATH"] = os.pathsep.join([*folders, *([inherited] if inherited else [])])
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder, "ran")
        done = subprocess.run(
            [*interpreter, "-B", str(_WATCHED), str(note), *map(str, arguments)],
            env=variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
        if note.exists():
            ran.add(name)
    assert done.returncode == 0, f"on {processor.title}, exit status {done.returncode}: {done.stderr[-4000:]}"
    return done.stdout


def _interpreter(processor: Processor, python: Path | None) -> tuple[list[str], dict[str, str]]:
    """The command that is Python on that processor, and its variables."""
    own = [str(python or sys.executable)]
    if processor.means == "own":
        return own, dict(os.environ)
    if processor.means == "masked":
        return own, as_processor().environment(processor.known_as)
    if processor.machine == "arm64":
        try:
            return arm64_python.command(processor.known_as), {"PATH": os.defpath, "LANG": "C.UTF-8"}
        except arm64_python.NotPreparedError as error:
            missing(f"arm64's Python cannot be had: {error}")
    # An emulated processor hides by itself what it does not have.
    variables = {name: value for name, value in os.environ.items() if name not in as_processor().VARIABLES}
    if processor.known_as == "Nehalem":
        # OpenBLAS would take another word for it, and die of an instruction that this processor does not have.
        variables["OPENBLAS_CORETYPE"] = "Nehalem"
    return ["qemu-x86_64", "-cpu", processor.known_as, *own], variables


@cache
def arm64_libraries() -> Path:
    """The libraries of the function's arm64 package, from its lock file, unpacked."""
    from hpe_tasks.errors import ConfigError
    from hpe_tasks.local.environment import lambda_python
    from hpe_tasks.packaging.dependencies import dependency_layer

    try:
        layer = dependency_layer("arm64", arm64_python.CACHE, lambda_python())
    except ConfigError as error:
        missing(f"the arm64 libraries cannot be had: {error}")
    return arm64_python.libraries(layer)


def last_line(names: Iterable[str]) -> str:
    """On which processors int8 files were run, on which they cannot be run here and why, and which nobody asked for."""
    done = set(names)
    if done & {"host", "vnni"}:
        done |= {"host"} if absence("vnni") else {"host", "vnni"}
    told = [_described(processor) for name, processor in PROCESSORS.items() if name in done and name != "vnni"]
    absent = [(PROCESSORS[name], absence(name)) for name in PROCESSORS if name not in done]
    not_here = [f"{processor.title} ({said.reason})" for processor, said in absent if said is not None]
    not_asked = [processor.title for processor, said in absent if said is None and processor.name != "vnni"]
    parts = [f"int8 files ran on: {', '.join(told) or 'none'}"]
    if not_here:
        parts.append(f"cannot run here: {', '.join(not_here)}")
    if not_asked:
        parts.append(f"not asked for by these tests: {', '.join(not_asked)}")
    return "; ".join(parts)


def _described(processor: Processor) -> str:
    if processor.name == "host":
        machine, *has = cpu_features()
        return f"{_model_name()} ({machine}; {', '.join(has) or 'no int8 instructions'})"
    return f"{processor.title} ({'instruction sets hidden' if processor.means == 'masked' else 'QEMU'})"


def _model_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "this machine"
