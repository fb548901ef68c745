"""Fault injection, for tests alone: a process that kills itself at a point that an undisturbed run has reached.

The environment variable HPE_FAULT says what is wanted; without it, `reached` looks it up and returns:

- `record:FILE` appends a line for each point to a file: process, name, and the file that it is about, with tabs.
- `kill:NAME#N` sends SIGKILL to the own process when the point NAME is reached in it for the N-th time.
- `tear:NAME#N` lets a file be opened for writing there, and at the next point cuts off half of what was written into it
  before the kill, as a kill in the middle of the write leaves it.

Points are the calls of `reached`, and from the first of these on every change of a file by Python code of whatever
library, as the interpreter's audit hook tells it: nobody has to name a write, and none can be forgotten. A file's point
comes before its change. Processes that a run starts inherit the variable, and count for themselves.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from functools import cache
from types import FrameType
from typing import Any

VARIABLE = "HPE_FAULT"

_CHANGES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
_NEEDS_ONE = {"os.remove", "os.rmdir"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OF_THE_SYSTEM = ("/dev/", "/proc/", "/sys/")

_OURS = f"{__package__}."


def reached(point: str) -> None:
    """Say that a point is reached; this does something only where HPE_FAULT is set.

    Args:
        point: Its name.
    """
    plan = os.environ.get(VARIABLE)
    if plan:
        _injection(plan).reached(point)


@cache
def _injection(plan: str) -> _Injection:
    injection = _Injection(plan)
    sys.addaudithook(injection.audit)
    return injection


class _Injection:
    """What HPE_FAULT asks for.

    Args:
        plan: Its value.
    """

    def __init__(self, plan: str) -> None:
        self._mode, _, target = plan.partition(":")
        if self._mode not in {"record", "kill", "tear"}:
            raise ValueError(f"{VARIABLE} is {plan!r}: it begins with none of record:, kill: and tear:")
        recorded = self._mode == "record"
        self._log = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) if recorded else None
        self._point, _, number = ("", "", "0") if recorded else target.rpartition("#")
        self._number = int(number)
        self._times: Counter[str] = Counter()
        self._torn: tuple[str, int] | None = None
        self._opening = threading.local()  # Files that other threads open come between.
        self._lock = threading.RLock()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take a change of a file that Python code is about to make for a point."""
        if event == "open":
            if arguments[2] & _WRITING:
                self._file_opened(arguments[0], arguments[2])
        elif event in _CHANGES:
            path = _path(arguments[0])
            there = os.path.lexists(path)
            # What is there already, or gone already, is not changed.
            if path and not (there if event == "os.mkdir" else event in _NEEDS_ONE and not there):
                self._opening.path = ""
                self.reached(_name(event), path)

    def _file_opened(self, file: Any, flags: int) -> None:
        path = _path(file)
        # Code that opens a file with rights of its own asks the system a second time.
        if path and path != getattr(self._opening, "path", ""):
            self._opening.path = path
            self.reached(_name("open"), path, kept_bytes=0 if flags & os.O_TRUNC else _size(path))

    def reached(self, point: str, path: str = "", *, kept_bytes: int | None = None) -> None:
        """Do what is asked for at a point.

        Args:
            point: Its name.
            path: The file that is about to be changed.
            kept_bytes: How many bytes of it stay, where it is opened for writing.
        """
        with self._lock:
            if self._torn is not None:
                torn, self._torn = self._torn, None  # cutting it off is a point as well
                _cut(*torn)
                _kill()
            if self._log is not None:
                os.write(self._log, f"{os.getpid()}\t{point}\t{path}\n".encode())
            self._times[point] += 1
            if point == self._point and self._times[point] == self._number:
                if self._mode == "kill" or kept_bytes is None:
                    _kill()
                else:
                    self._torn = (path, kept_bytes)


def _path(argument: Any) -> str:
    """The file that a call names; empty where that is a descriptor, or none of a run's."""
    path = os.fsdecode(argument) if isinstance(argument, (str, bytes, os.PathLike)) else ""
    return "" if path.startswith(_OF_THE_SYSTEM) or "__pycache__" in path else path


def _name(event: str) -> str:
    """The name of a file's point: the change, and the function of this package that it comes from."""
    frame: FrameType | None = sys._getframe(1)
    origin = ""
    while frame is not None:
        spec = frame.f_globals.get("__spec__")  # a program's `__name__` is not that of its module
        module = str(frame.f_globals.get("__name__") if spec is None else spec.name)
        if module != __name__:
            if module.startswith(_OURS):
                origin = f"{module.removeprefix(_OURS)}.{frame.f_code.co_qualname}"
                break
            origin = origin or module
        frame = frame.f_back
    return f"{event.removeprefix('os.')} in {origin}"


def _size(path: str) -> int:
    return os.stat(path).st_size if os.path.isfile(path) else 0  # noqa: PTH116, PTH113 - an audit hook takes little time


def _cut(path: str, kept_bytes: int) -> None:
    written = _size(path) - kept_bytes
    if written > 1:
        os.truncate(path, kept_bytes + written // 2)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
