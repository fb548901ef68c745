"""Keeps the emulator's processes: kills a function that uses too much memory, and all of them when its parent ends.

Run as `python -I keeper.py MEMORY_MB COMMAND…`, with a pipe as its input: its end means that the parent has gone. A
process of its own, because nothing in the parent runs any more when that is killed. The limit is on resident memory,
looked at every few milliseconds: limits of the address space (RLIMIT_AS, RLIMIT_DATA) count what onnxruntime only
reserves, and control groups are not everybody's to make.
"""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import sys

import psutil

POLL_S = 0.005


def main(memory_mb: int, command: list[str]) -> int:
    """Run the command until it ends or the input does; returns the exit status."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as started:
        emulator = psutil.Process(started.pid)
        try:
            while started.poll() is None:
                if select.select([sys.stdin], [], [], POLL_S)[0]:
                    return 0
                with contextlib.suppress(psutil.NoSuchProcess):
                    _enforce(emulator, memory_mb)
            return started.returncode
        finally:
            _kill(emulator)


def _enforce(emulator: psutil.Process, memory_mb: int) -> None:
    functions = emulator.children()
    if sum(function.memory_info().rss for function in functions) > memory_mb * 2**20:
        # Said first: whoever reads the emulator's answer finds the reason in the log.
        print(f"hpe-keeper: memory above {memory_mb} MB, the function is killed", flush=True)
        for function in functions:
            function.kill()


def _kill(emulator: psutil.Process) -> None:
    """End the emulator and the function; stopped first, it starts no other one meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        emulator.suspend()
        for process in (*emulator.children(recursive=True), emulator):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


if __name__ == "__main__":
    # Only its parent ends it, by closing its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
