"""What a killed training goes on from, on whichever machine: its folder, copied into the run when it is saved."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from hpe_tasks.storage.workspace import Workspace

log = logging.getLogger(__name__)


class KeptTraining:
    """Copies a training's folder into a workspace, whenever its state was saved: an observer of the training.

    Where two copy at the same time, such as an orphan and its retry, either's files are good: the same training makes
    them.

    Args:
        workspace: Takes the copy.
        prefix: Folder there.
        folder: The training's folder on this machine.
        state: Name of the file in it that says where the training goes on; it is copied last, after what it needs.
    """

    def __init__(self, workspace: Workspace, prefix: str, folder: Path, state: str) -> None:
        self._workspace, self._prefix, self._folder, self._state = workspace, prefix, folder, folder / state
        self._copied: dict[Path, tuple[int, int]] = {}

    def fetch(self) -> None:
        """Bring what a killed training has left into the folder; nothing where it has left nothing."""
        names = [file.name for file in self._workspace.files(self._prefix)]
        found = [name for name in names if not PurePosixPath(name).name.startswith(".")]  # that is half a copy
        if f"{self._prefix}/{self._state.name}" not in found:
            return
        for name in found:
            file = self._folder / PurePosixPath(name).relative_to(self._prefix)
            file.parent.mkdir(parents=True, exist_ok=True)
            self._workspace.fetch(name, file)
        log.info("going on with the training that was killed, from %s/%s", self._workspace.uri, self._prefix)

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """Copy what is new since a stage ended."""
        self._copy()

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        """Copy where the state was saved since the last step."""
        self._copy()

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Copy nothing: a step comes next, or the end."""

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Copy nothing: whoever began the training keeps its result."""

    def _copy(self) -> None:
        if not self._state.is_file() or self._copied.get(self._state) == _version(self._state):
            return
        files = [path for path in self._folder.rglob("*") if path.is_file() and path != self._state]
        for file in [*sorted(files), self._state]:
            version = _version(file)
            if self._copied.get(file) != version:
                self._workspace.put(f"{self._prefix}/{file.relative_to(self._folder).as_posix()}", file)
                self._copied[file] = version


def _version(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size
