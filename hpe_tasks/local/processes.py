"""Processes that end with the one that started them, however that ends: by Ctrl-C, SIGTERM, SIGKILL or a crash.

Whatever a process does at its end, it does not do when it is killed, and what it has started goes on. Three ways out:

- `end_with_parent`: the kernel sends a signal when the parent ends. It means the thread that started the process, and
  forgets the wish where a program gains rights: for parents with one thread, and programs of our own.
- `guard`: a process stands above a program, and ends whatever that leaves behind, children of children and those that
  have turned away from their terminal as well: the kernel hands all of them to it.
- `wait_for_end`: a thread of the child waits for the parent: for parents with threads.

As a script, `python -I processes.py COMMAND…`, it runs a command with a guard. It needs nothing but Python, as other
environments than the pipeline's use it. Linux only; elsewhere processes end as the system has it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

STARTER = "HPE_STARTED_BY"
"""Names the process that a guarded one ends with; where it is not set, that is the parent as it is at the start."""

_LINUX = sys.platform == "linux"
# Looked up before any fork: a child of a process with threads may not load libraries.
_prctl = ctypes.CDLL(None, use_errno=True).prctl if _LINUX else None
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SI_KERNEL = 0x80

_KILL_PATIENCE_S = 10.0
_POLL_S = 0.02
_END_POLL_S = 0.5


def end_with_parent(number: signal.Signals = signal.SIGTERM, parent: int | None = None) -> None:
    """Have this process sent a signal when the thread that started it ends.

    Args:
        number: The signal.
        parent: The process that is expected to be the parent: where it has ended already, the signal comes at once.
    """
    if _prctl is None:
        return
    if _prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_PDEATHSIG is refused.")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def start_guarded() -> None:
    """For the beginning of a program: it ends with what started it, and nothing that it starts outlives it."""
    end_with_parent(signal.SIGTERM, int(os.environ.pop(STARTER, "0")) or os.getppid())
    guard()
    guard()  # One of them may be killed: the program, which is then told, need not know what its children have left.


def guard(patience_s: float = 10.0) -> None:
    """Go on in a child; this process waits for it, passes signals on, and then ends all that the child has left.

    Where this process is killed, the child is sent SIGTERM. To be called before the program has threads or children.

    Args:
        patience_s: Time between SIGTERM and SIGKILL for what is left.
    """
    if _prctl is None:
        return
    if _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER is refused.")
    waited_for = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}
    above, mask = os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)
    child = os.fork()
    if child == 0:
        end_with_parent(signal.SIGTERM, above)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return
    status = _stand_above(child, waited_for)
    end_descendants(patience_s)
    os._exit(status if status >= 0 else 128 - status)  # As a shell has it.


def _stand_above(child: int, waited_for: set[signal.Signals]) -> int:
    while True:
        said = signal.sigwaitinfo(waited_for)
        if said.si_signo == signal.SIGCHLD:
            for pid, status in _collect():
                if pid == child:
                    return os.waitstatus_to_exitcode(status)
        # What comes from the terminal, the child has had from there.
        elif said.si_code != _SI_KERNEL:
            _signal(child, signal.Signals(said.si_signo))


def _collect() -> Iterator[tuple[int, int]]:
    """Children that have ended, with their status."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


def end_descendants(patience_s: float) -> None:
    """End every process below this one, which must not wait for any of them elsewhere.

    Args:
        patience_s: Time between SIGTERM and SIGKILL.
    """
    for number, longest_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, _KILL_PATIENCE_S)):
        told: set[int] = set()
        deadline = time.monotonic() + longest_s
        while time.monotonic() < deadline:
            list(_collect())
            left = {pid for pid in descendants(os.getpid()) if start_ticks(pid) is not None}
            if not left:
                return
            for pid in left - told:
                _signal(pid, number)
            told |= left
            time.sleep(_POLL_S)


def wait_for_end(parent: int) -> None:
    """Wait until the process that started this one has ended."""
    try:
        handle = os.pidfd_open(parent)
    except (AttributeError, OSError):  # Not Linux, or an old one; or it has ended.
        while os.getppid() == parent:
            time.sleep(_END_POLL_S)
        return
    try:
        # Its number may have gone to another process before it was opened.
        while os.getppid() == parent and not select.select([handle], [], [], _END_POLL_S)[0]:
            pass
    finally:
        os.close(handle)


def children(pid: int) -> Iterator[int]:
    """Processes that a process has started, whichever of its threads did; none where it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                yield from map(int, (thread / "children").read_text().split())


def descendants(pid: int) -> Iterator[int]:
    """Children of a process, and theirs."""
    for child in list(children(pid)):
        yield child
        yield from descendants(child)


def start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks after boot; None when it does not run (a zombie does not)."""
    try:
        # The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else int(ticks)


def command_line(pid: int) -> tuple[str, ...]:
    """A process's command line; empty when it does not run."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ()
    return tuple(command.decode(errors="replace").rstrip("\0").split("\0"))


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    start_guarded()
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]} cannot be run: {error.strerror}.")
