"""Whether processes have ended."""

from __future__ import annotations

from hpe_tasks.local.processes import start_ticks


def gone(pid: int) -> bool:
    """Whether a process has ended; one that its parent has not collected counts as ended."""
    return start_ticks(pid) is None
