"""What the tests call another processor is one: its kernels are chosen, and records name it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpe_tasks.contract import instruction_sets
from support import processors
from support.processors import PROCESSORS, Absence, absence, as_processor, last_line, need, ran, run_on
from support.tiny_networks import integer_product

# A product of two matrices whose pairs of products leave 16 bits; of the project there is one module on arm64.
PRODUCT = """
import json, platform, runpy, sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(found,) = session.run(None, {"a": np.full((8, 64), 255, np.uint8)})
sees = runpy.run_path(sys.argv[2])["instruction_sets"]()
print(json.dumps({"found": found.tolist(), "sees": sees, "machine": platform.machine()}))
"""
EXACT, SATURATED = 64 * 255 * 127, 64 // 2 * (2**15 - 1)
INSTRUCTION_SETS = {
    "avx512": ["avx2", "avx512bw"],
    "avx2": ["avx2"],
    "sse4": [],
    "haswell": ["avx2"],
    "nehalem": [],
    "cortex-a72": [],
    "neoverse-n1": ["asimddp"],
    "arm64-max": ["asimddp", "i8mm", "sve"],
}


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("product") / "product.onnx"
    path.write_bytes(integer_product(64, 16, 127).SerializeToString())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROCESSORS if name != "host"])
def test_the_kernels_are_those_of_the_processor(name: str, product: Path) -> None:
    """Kernels that add pairs of products in 16 bits lose a part of these; those of the others lose nothing."""
    told = json.loads(run_on(name, ["-c", PRODUCT, product, instruction_sets.__file__]))
    assert told["machine"] == {"x86_64": "x86_64", "arm64": "aarch64"}[PROCESSORS[name].machine]
    assert told["found"] == [[EXACT if PROCESSORS[name].exact else SATURATED] * 16] * 8
    assert told["sees"] == INSTRUCTION_SETS.get(name, told["sees"])
    assert name in ran


@pytest.mark.parametrize("name", ["host", "avx2"])
def test_a_record_names_the_processor_that_the_program_saw(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "ran", set())
    code = "from hpe_tasks.contract.cpu import cpu_features; print(*cpu_features())"
    features = run_on(name, ["-c", code]).split()
    assert ("avx512bw" in features) == (name == "host" and absence("avx512") is None)
    assert not processors.ran  # No int8 file was run.


def test_a_failing_program_fails_the_test() -> None:
    with pytest.raises(AssertionError, match=r"exit status 3: .*no such thing"):
        run_on("host", ["-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"])


def test_what_is_replaced_are_cpuid_instructions(tmp_path: Path) -> None:
    """Against a disassembler: wherever the two bytes stand in a library's code, it says whether they are one."""
    need("avx2")
    program = [sys.executable, "-c", "import onnxruntime, PIL.Image, nacl.signing"]
    variables = as_processor().environment("avx2") | {"AS_PROCESSOR_SITES": "1"}
    said = subprocess.run(program, env=variables, capture_output=True, text=True, check=True).stderr
    found = re.findall(r"^as_processor: (/\S+) (\d+) (\d+)$", said, flags=re.MULTILINE)
    libraries = {name: Path(name).read_bytes() for name, _, _ in found}
    # Each place with 256 bytes before it, in which the disassembler falls into step, and 16 × NOP between them.
    windows = [libraries[name][int(at) - 256 : int(at) + 2] + b"\x90" * 16 for name, at, _ in found]
    code = tmp_path / "code"
    code.write_bytes(b"".join(windows))
    command = ["objdump", "-D", "-w", "-b", "binary", "-m", "i386:x86-64", str(code)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpuids = {int(line.partition(":")[0], 16) for line in listing.splitlines() if line.rstrip().endswith("cpuid")}
    expected = [number * len(windows[0]) + 256 in cpuids for number in range(len(windows))]
    # Both kinds are there, and none is in doubt.
    assert sum(expected) > 50
    assert not all(expected)
    assert [int(percent) >= 60 for _, _, percent in found] == expected
    assert not [percent for _, _, percent in found if 25 < int(percent) < 75]


def test_the_last_line_names_what_ran_what_cannot_and_what_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"avx512": Absence("no avx512bw here", installable=False)}
    monkeypatch.setattr(processors, "absence", said.get)
    line = last_line({"host", "avx2", "neoverse-n1"})
    told, absent, others = (
        line.split("; cannot run here: ")[0],
        *line.split("; cannot run here: ")[1].split("; not asked"),
    )
    assert told.startswith("int8 files ran on: ")
    assert "AVX2 (instruction sets hidden), arm64 with dot products (Graviton 2) (QEMU)" in told
    assert absent == "AVX-512 without VNNI (no avx512bw here)"
    assert others.endswith("Nehalem, arm64 without dot products (Cortex-A72), arm64 with i8mm and SVE")
    assert last_line(()).startswith("int8 files ran on: none; ")


SUITE = """
import numpy as np
import onnxruntime
import pytest
from support.processors import run_on

CODE = '''
import sys
import numpy, onnxruntime
onnxruntime.InferenceSession(sys.argv[1]).run(None, {"a": numpy.zeros((8, 64), "u1")})
'''


@pytest.mark.parametrize("name", ["host", "avx2", "sse4"])
def test_runs(name):
    run_on(name, ["-c", CODE, "MODEL"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_the_line_is_the_last_one_of_a_test_run(workers: int, product: Path, repository: Path, tmp_path: Path) -> None:
    """With workers, too: they tell the controller."""
    need("avx2")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text((repository / "tests" / "conftest.py").read_text())
    (tmp_path / "tests" / "test_suite.py").write_text(SUITE.replace("MODEL", str(product)))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        f"-n{workers}",
    ]
    variables = os.environ | {"PYTHONPATH": f"{repository}{os.pathsep}{repository / 'tests'}"}
    said = subprocess.run(
        [*command, "--import-mode=importlib", "tests"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    last = said.stdout.rstrip().splitlines()[-1]
    assert last == last_line({"host", "avx2", "sse4"})
