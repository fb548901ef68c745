"""Reading a file of unknown origin a first time in a process of its own, where it can take only so much.

What a process of its own has read within its limits may then be read here: the same bytes take as much again.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hpe_tasks.errors import HpeError, shortened
from hpe_tasks.untrusted.limits import Limits

log = logging.getLogger(__name__)

_PASSED_ON = {
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LANGUAGE", "VIRTUAL_ENV"),
    *("LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "HPE_FAULT"),
}
"""Variables that a process which reads needs: any other may be a password of whatever this one was started by."""
_PASSED_ON_PREFIXES = ("LC_", "PYTHON", "XDG_", "OMP_", "HPE_READER_")

_LONGEST_REPORT = 10_000
_HINT = (
    "Do not use a file that you do not trust. For one that you do, raise HPE_READER_MEMORY_MB, HPE_READER_CPU_S or "
    "HPE_READER_WALL_S."
)


def try_reading(
    read: Callable[..., object] | tuple[str, str],
    file: Path,
    arguments: dict[str, Any],
    *,
    limits: Limits,
    kind: type[HpeError],
) -> None:
    """Have a process of its own read a file, from an empty folder, without credentials, within limits.

    That the file is refused there, by an HpeError, is not told: whoever reads it afterwards finds the same.

    Args:
        read: A function of a module, called with the file's path as text and the arguments. What its module imports
            does not count towards the limits. As the names of module and function where this process is not to import
            it.
        file: The file.
        arguments: What else it is given, JSON-able.
        limits: What the process may take.
        kind: The error to raise.

    Raises:
        HpeError: Of this kind: the process took more than it may, or ended in a way that nobody foresaw.
    """
    log.info("Reading %s a first time, in a process of its own", file)
    with TemporaryDirectory(prefix="hpe-reader-") as folder:
        empty, report = Path(folder) / "empty", Path(folder) / "report"
        empty.mkdir()
        request = {
            "read": read if isinstance(read, tuple) else (read.__module__, read.__qualname__),
            "file": str(file.absolute()),
            "arguments": arguments,
            "memory_bytes": limits.memory_bytes,
            "cpu_s": limits.cpu_s,
            "report": str(report),
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hpe_tasks.untrusted"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            env=_environment(),
        )
        try:
            process.communicate(json.dumps(request).encode(), timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            raise kind(f"Reading {file} took more than {limits.wall_s} s on the clock.", hint=_HINT) from None
        finally:
            process.kill()
            process.wait()
        reason = _reason(process.returncode, report, limits)
    if reason:
        raise kind(f"Reading {file} {reason}", hint=_HINT)


def _environment() -> dict[str, str]:
    """What is passed on of the environment, with this code, and with threads that take no memory of their own."""
    kept = {
        name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    code = [str(Path(__file__).parents[2]), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {
        "PYTHONPATH": os.pathsep.join(code),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }


def _reason(status: int, report: Path, limits: Limits) -> str:
    """Why a file must not be read here; empty where it may."""
    if status == -signal.SIGXCPU:
        return f"took more than {limits.cpu_s} s of processor time."
    told = ""
    if report.is_file():
        with report.open(encoding="utf-8", errors="replace") as opened:
            told = opened.read(_LONGEST_REPORT)
    if status == 0 and told == "read":
        return ""
    if told == "memory":
        return f"took more than {limits.memory_bytes / 1e6:,.0f} MB of memory."
    if status < 0:
        name = signal.Signals(-status).name
        return f"ended its process with {name}; {limits.memory_bytes / 1e6:,.0f} MB of memory were its limit."
    return f"failed in a way that was not foreseen: {shortened(told) or f'status {status}'}."
