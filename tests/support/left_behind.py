"""Whether processes have ended."""

from __future__ import annotations

import time

import psutil

from hpe_tasks.local.processes import start_ticks


def gone(pid: int) -> bool:
    """Whether a process has ended; one that its parent has not collected counts as ended."""
    return start_ticks(pid) is None


class Everything:
    """All that has been started below a process until now."""

    def __init__(self, top: int) -> None:
        self.processes = [psutil.Process(top), *psutil.Process(top).children(recursive=True)]

    def runs(self, word: str) -> bool:
        return any(word in process.cmdline() for process in self.processes)

    def left(self, patience_s: float = 60) -> list[psutil.Process]:
        """What still runs after some time; it is killed then."""
        deadline = time.monotonic() + patience_s
        # A process whose number was given to another meanwhile is none of them.
        while (left := [one for one in self.processes if one.is_running() and not gone(one.pid)]) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.2)
        for process in left:
            process.kill()
        return left
