"""Lambda's Python for arm64, to be run by QEMU: Debian's own packages in a folder, nothing of this system is touched.

The function's package is built for Python 3.13. Debian 12 has 3.11, so the interpreter, its C library and its C++
library come from the release after it, from the mirror that this system's apt uses, verified with Debian's keys.
Everything lands in `.cache/processors` of the checkout, 68 MB, and stays there for the next run of the tests.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "processors"
RELEASE, PYTHON = "trixie", "python3.13"
PACKAGES = (f"{PYTHON}-minimal", f"lib{PYTHON}-stdlib", "libstdc++6")

_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Of linux/arch/arm64/kernel/cpuinfo.c: names of bits of AT_HWCAP and AT_HWCAP2, those that decide kernels.
_HWCAP = {0: "fp", 1: "asimd", 8: "atomics", 9: "fphp", 10: "asimdhp", 20: "asimddp", 22: "sve", 23: "asimdfhm"}
_HWCAP2 = {1: "sve2", 9: "svei8mm", 13: "i8mm", 14: "bf16"}
# CPU part of the identification register; QEMU's `max` is none that was built.
_PARTS = {"cortex-a53": 0xD03, "cortex-a72": 0xD08, "neoverse-n1": 0xD0C}

_READ_HWCAPS = (
    "from ctypes import CDLL, c_ulong\n"
    "ask = CDLL(None).getauxval\n"
    "ask.restype, ask.argtypes = c_ulong, [c_ulong]\n"
    "print(ask(16), ask(26))\n"
)


class NotPreparedError(Exception):
    """Arm's Python cannot be had here; the message says what is missing."""


def why_not() -> str | None:
    """What this system lacks to run arm64's Python, or None."""
    for tool, package in (("qemu-aarch64", "qemu-user"), ("apt-get", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (Debian package {package})"
    return None if _KEYS.is_file() else f"{_KEYS} is missing (Debian package debian-archive-keyring)"


def command(cpu: str) -> list[str]:
    """What runs arm64's Python on a processor that QEMU knows; arguments of Python follow.

    Raises:
        NotPreparedError: Something is not installed, or the mirror cannot be reached.
    """
    if said := why_not():
        raise NotPreparedError(said)
    with _locked():
        root = CACHE / f"{RELEASE}-{'-'.join(PACKAGES)}"
        if not root.is_dir():
            _unpack_debian(root)
        # QEMU looks for every file below the prefix first, so the program is shown its own processor, not this
        # machine's: onnxruntime dies while it reads an x86-64 processor's description.
        prefix = CACHE / f"prefix-{cpu.partition(',')[0]}"
        if not (prefix / "proc" / "cpuinfo").is_file():
            _make_prefix(prefix, root, cpu)
    return _qemu(cpu, prefix, root)


def libraries(architecture_layer: Path) -> Path:
    """Folder with the unpacked libraries of an arm64 package, such as `dependency_layer` makes it."""
    folder = CACHE / architecture_layer.stem
    with _locked():
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
                with zipfile.ZipFile(architecture_layer) as archive:
                    archive.extractall(temporary)
                shutil.copytree(temporary, folder)
    return folder


def _qemu(cpu: str, prefix: Path, root: Path) -> list[str]:
    return ["qemu-aarch64", "-cpu", cpu, "-L", str(prefix), str(root / "usr" / "bin" / PYTHON)]


@contextmanager
def _locked() -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_prefix(prefix: Path, root: Path, cpu: str) -> None:
    (prefix / "proc").mkdir(parents=True, exist_ok=True)
    for name in ("lib", "usr", "etc"):
        if not (prefix / name).is_symlink():
            (prefix / name).symlink_to(Path("..") / root.name / name)
    done = _run([*_qemu(cpu, prefix, root), "-I", "-S", "-c", _READ_HWCAPS])
    tables = zip(map(int, done.split()), (_HWCAP, _HWCAP2), strict=True)
    names = [name for bits, table in tables for bit, name in table.items() if bits >> bit & 1]
    text = "".join(
        f"processor\t: {number}\nBogoMIPS\t: 243.75\nFeatures\t: {' '.join(names)}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {_PARTS.get(cpu, 0):#05x}\nCPU revision\t: 0\n\n"
        for number in range(os.cpu_count() or 1)
    )
    (prefix / "proc" / "cpuinfo").write_text(text, encoding="utf-8")


def _unpack_debian(root: Path) -> None:
    """Download with apt, in folders of its own, what the packages need, and unpack it."""
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        folder = Path(temporary)
        for name in ("lists/partial", "cache/archives/partial", "root"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={_KEYS}] {_mirror()} {RELEASE} main\n", encoding="utf-8")
        (folder / "apt.conf").write_text(
            f'Dir::State "{folder}";\nDir::State::status "{folder}/status";\nDir::State::lists "{folder}/lists";\n'
            f'Dir::Cache "{folder}/cache";\nDir::Etc::sourcelist "{folder}/sources.list";\n'
            'Dir::Etc::sourceparts "/dev/null";\n'
            'Dir::Etc::preferencesparts "/dev/null";\nAPT::Architecture "arm64";\nAPT::Architectures { "arm64"; };\n'
            'APT::Install-Recommends "false";\nAPT::Sandbox::User "root";\nDebug::NoLocking "true";\n',
            encoding="utf-8",
        )
        apt = {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}
        _run(["apt-get", "-q", "update"], apt)
        _run(["apt-get", "-q", "-y", "--download-only", "install", *PACKAGES], apt)
        for package in sorted((folder / "cache" / "archives").glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(folder / "root")])
        if not (folder / "root" / "lib").exists():
            # Debian's base-files makes it; libraries name their loader by this path.
            (folder / "root" / "lib").symlink_to("usr/lib")
        (folder / "root").rename(root)


def _mirror() -> str:
    """Address of the Debian archive that this system's apt uses."""
    told = _run(["apt-get", "--print-uris", "update"])
    found = re.search(r"'(\S+/debian/)dists/[a-z]+/InRelease'", told)
    if found is None:
        raise NotPreparedError("apt has no Debian archive among its sources: is this system Debian?")
    return found[1]


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotPreparedError(f"{' '.join(command[:4])} failed: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout
