"""What `airflow dags test` says while it runs, line by line: tasks, their progress, and why it ended early."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field

_STARTED = re.compile(r"\[DAG TEST\] starting task_id=(\w+)")
_STATE = re.compile(r"Task instance state updated .*new_state=(\w+)")
_REUSED = re.compile(r"\w+: reused .*\[hpe_tasks\.[\w.]+\]")
_PROGRESS = re.compile(r"\[info\s*\] (.*?)\s*\[hpe_tasks\.progress\]")
_OURS = re.compile(r"\[(?:warning|error)\s*\] (.*?)\s*\[hpe_\w+[\w.]*\]")
_NOT_LOADED = re.compile(r"\[error\s*\] (Error loading DAG .*?)\s*\[airflow\.[\w.]+")
_ERROR = re.compile(r"\[(?:error|critical)\s*\] (.*?)\s*\[[\w.]+\]")
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*)(?:: (.*))?$")
_TRACEBACK = "Traceback (most recent call last):"


@dataclass
class RunLog:
    """What has been read so far.

    Attributes:
        task: The task that runs; empty between tasks.
        state: How the last task ended; `reused` where a step took an earlier result.
        failures: Why tasks failed, by name.
        notes: Warnings and errors of ours, by text: whether they have been told.
    """

    task: str = ""
    state: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    notes: dict[str, bool] = field(default_factory=dict)
    _reused: bool = False
    _in_traceback: bool = False
    _not_loaded: str = ""
    _exception: str = ""
    _error: str = ""

    def started(self, line: str) -> bool:
        """Whether this line starts a task."""
        found = _STARTED.search(line)
        if found:
            self.task, self._reused = found[1], False
        return found is not None

    def progress(self, line: str) -> str:
        """How far the work is, where this line says so."""
        found = _PROGRESS.search(line) if self.task else None
        return found[1] if found else ""

    def ended(self, line: str) -> bool:
        """Whether this line ends the task that runs; whatever else it says is kept."""
        found = _STATE.search(line) if self.task else None
        if found:
            self.state = "reused" if self._reused and found[1] == "success" else found[1].replace("success", "done")
            if self.state == "failed":
                self.failures.setdefault(self.task, "")
            return True
        if found := _OURS.search(line):
            note = found[1].removeprefix(f"{self.task} failed: ")
            if note != found[1]:
                self.failures[self.task] = note
            self.notes.setdefault(note, False)
        elif _REUSED.search(line):
            self._reused = True
        else:
            self._keep_reason(line)
        return False

    def new_notes(self) -> list[str]:
        """The notes that have not been told yet; they count as told from now on."""
        new = [note for note, told in self.notes.items() if not told]
        self.notes = dict.fromkeys(self.notes, True)
        return new

    def _keep_reason(self, line: str) -> None:
        line = line.rstrip()
        if line.endswith(_TRACEBACK):
            self._in_traceback = True
        elif self._in_traceback and line and not line[0].isspace():
            found = _EXCEPTION.match(line)
            if found:
                self._exception = f"{found[1]}: {found[2]}" if found[2] else found[1]
            self._in_traceback = False
        elif found := _NOT_LOADED.search(line):
            self._not_loaded = found[1]
        elif found := _ERROR.search(line):
            self._error = found[1]

    def reason(self, status: int) -> str:
        """In one sentence, why Airflow ended with this exit status, where no task's own failure says it.

        What kept the DAG from loading comes first, for Airflow's own last words are then that there is no such DAG.
        """
        while_running = f" while {self.task} ran" if self.task else ""
        if status < 0:
            name = signal.Signals(-status).name
            killed = ": the machine may have run out of memory" if name == "SIGKILL" else ""
            return f"Airflow was ended by {name}{while_running}{killed}."
        said = self._not_loaded or self._exception or self._error
        return (
            f"Airflow ended early{while_running}: {said or f'exit status {status}, without a word'}".rstrip(".") + "."
        )
