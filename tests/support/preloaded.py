"""Shared libraries that programs load before all others, so that what they ask of the system is answered otherwise."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from support.requirements import missing

_folders: list[tempfile.TemporaryDirectory[str]] = []


@cache
def library(name: str) -> Path:
    """The shared library made from `<name>.c` of this folder, in a folder of its own until this process ends."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        missing("there is no C compiler for Linux (Debian packages gcc and libc6-dev)")
    folder = tempfile.TemporaryDirectory(prefix="hpe-preloaded-")
    _folders.append(folder)
    made = Path(folder.name) / f"{name}.so"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run([compiler, *flags, "-o", str(made), str(source), "-ldl"], check=True)
    return made
