"""Keeps the emulator's processes: kills a function that uses too much memory, and all of them when its parent ends.

Run as a script with MEMORY_MB COMMAND… and a pipe as its input: its end means that the parent has gone. A process of
its own, because nothing in the parent runs any more when that is killed, and one above it (`processes.guard`) for the
case that it is killed itself. The limit is on resident memory,
looked at fifty times a second: limits of the address space (RLIMIT_AS, RLIMIT_DATA) count what onnxruntime only
reserves, and control groups are not everybody's to make.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import FrameType

from hpe_tasks.local.processes import children, descendants, end_with_parent, guard

KILLED = "hpe-keeper: the function is killed, its memory exceeds"
"""What the log says before a number of megabytes."""

_POLL_S = 0.02
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def main(memory_mb: int, command: list[str]) -> int:
    """Run the command until it ends or the input does; returns the exit status."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=partial(end_with_parent, signal.SIGKILL, os.getpid()),  # noqa: PLW1509 - there are no threads
    ) as emulator:
        try:
            while emulator.poll() is None:
                if select.select([sys.stdin], [], [], _POLL_S)[0]:
                    return 0
                _enforce(emulator.pid, memory_mb)
            return emulator.returncode
        finally:
            _kill(emulator)


def rss_bytes(pid: int) -> int:
    """Memory of a process that is resident now; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _enforce(emulator: int, memory_mb: int) -> None:
    functions = list(children(emulator))
    if sum(map(rss_bytes, functions)) > memory_mb * 2**20:
        # Said first: whoever reads the emulator's answer finds the reason in the log.
        print(f"{KILLED} {memory_mb} MB", flush=True)
        for function in functions:
            _signal(function, signal.SIGKILL)


def _kill(emulator: subprocess.Popen[bytes]) -> None:
    """End the emulator and the function; stopped first, it starts no other one meanwhile."""
    if emulator.poll() is None:
        _signal(emulator.pid, signal.SIGSTOP)
        for pid in list(descendants(emulator.pid)):
            _signal(pid, signal.SIGKILL)
        _signal(emulator.pid, signal.SIGKILL)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    guard(patience_s=0)
    # Its parent ends it by closing its input, and whoever else must by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
