"""Programs that read another wall clock than this machine's: what workers see whose clocks are apart."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from support.requirements import missing

SOURCE = Path(__file__).with_suffix(".c")


@cache
def _library() -> Path:
    """The shared library made from `other_clock.c`, in a folder of its own until this process ends."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        missing("there is no C compiler for Linux (Debian packages gcc and libc6-dev)")
    folder = tempfile.TemporaryDirectory(prefix="hpe-other-clock-")
    _folders.append(folder)
    library = Path(folder.name) / "other_clock.so"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = [compiler, *flags, "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


_folders: list[tempfile.TemporaryDirectory[str]] = []


def other_clock(ahead_s: int) -> dict[str, str]:
    """Environment of a program whose wall clock is so many seconds ahead; what it starts has the same."""
    return {"LD_PRELOAD": str(_library()), "OTHER_CLOCK_S": str(ahead_s)}
