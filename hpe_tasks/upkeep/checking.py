"""Verifying everything that is stored in a workspace, and dropping what is broken so that it is made again."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hpe_tasks.config.base import Frozen
from hpe_tasks.pipeline.runs import CONFIG, LATEST, RUNS
from hpe_tasks.progress import track
from hpe_tasks.records.base import Artifact
from hpe_tasks.storage.workspace import RESULT, STORE, StoredFile, Workspace, artifacts_stored
from hpe_tasks.upkeep.contents import RunFiles, base_name, folders_of, pointed_by, results_in, runs_in

TRUSTED = "trusted"
"""What addresses gave when they were first used: only a person may say that it counts no more."""

Problem = Literal["changed", "missing", "unreadable"]


class BrokenFile(Frozen):
    """A stored file that is not what was stored.

    Attributes:
        name: In the workspace.
        step: Name of the step that made it; empty where it is no step's.
        runs: Names of the runs that point to it.
        repaired: Whether it was dropped, so that the next run makes it again.
    """

    name: str
    problem: Problem
    step: str
    runs: tuple[str, ...]
    repaired: bool = False


class WorkspaceCheck(Frozen):
    """What a look at all of a workspace has found.

    Attributes:
        files: Files whose digests were verified.
        without_digest: Other files of stored results: no record says what they must be.
    """

    workspace: str
    files: int
    size_bytes: int
    without_digest: int
    broken: tuple[BrokenFile, ...]

    @property
    def intact(self) -> bool:
        """Whether nothing broken is left."""
        return all(one.repaired for one in self.broken)


@dataclass(frozen=True)
class _Named:
    """A record, which names files that lie beside it.

    Attributes:
        folder: Of the record and its files.
        step: Whose record it is.
        data: The record as it was read.
    """

    folder: str
    step: str
    data: bytes

    @property
    def record(self) -> str:
        return f"{self.folder}/{RESULT}"


@dataclass(frozen=True)
class _Fault:
    """A broken file.

    Attributes:
        by: The record that names it; None for a small file that no record names.
    """

    name: str
    problem: Problem
    by: _Named | None = None


def check_workspace(workspace: Workspace, *, repair: bool = False) -> WorkspaceCheck:
    """Read everything that is stored, and compare it with the digests that were recorded.

    Runs may be under way: what they replace meanwhile does not count.

    Args:
        workspace: What to check.
        repair: Drop what is broken: a stored result as a whole, so that its step makes it again.
    """
    check = _Check(workspace)
    faults = [*check.faults()]
    return WorkspaceCheck(
        workspace=workspace.uri,
        files=check.files,
        size_bytes=check.size_bytes,
        without_digest=check.without_digest,
        broken=tuple(check.told(fault, repaired=repair and _repair(workspace, fault)) for fault in faults),
    )


def _repair(workspace: Workspace, fault: _Fault) -> bool:
    """Let what is broken count no more; False where that is for a person to say."""
    if fault.by is None:
        if fault.name.startswith(f"{TRUSTED}/"):
            return False
        workspace.remove(fault.name)
        return True
    # Another fault of the same record, or a step, may have been quicker.
    if workspace.read(fault.by.record) == fault.by.data:
        root, step, key = fault.by.folder.split("/")[:3]
        if root == STORE:
            workspace.forget(step, key)
        else:
            workspace.remove(fault.by.record)
            workspace.remove(fault.name)
    return True


class _Check:
    """One look at everything; the figures are complete once all faults were asked for."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._stored, self._all_runs = results_in(workspace), runs_in(workspace)
        self._runs_of: dict[str, set[str]] = defaultdict(set)
        self.files = self.size_bytes = self.without_digest = 0

    def faults(self) -> Iterator[_Fault]:
        """All that is broken."""
        records: list[_Named] = []
        for run in track(list(self._all_runs.values()), "Reading", unit="runs"):
            for file in run.records:
                data = self._workspace.read(file.name)
                named = self._result_of(run, file, data)
                if named is not None:
                    records.append(named)
                elif _is_broken(data) or (data is not None and base_name(file.name) == RESULT):
                    yield _Fault(file.name, "unreadable")
        for name in (LATEST, *(file.name for file in self._workspace.files(TRUSTED))):
            if _is_broken(self._workspace.read(name)):
                yield _Fault(name, "unreadable")
        for folder in sorted(self._stored):
            record = _Named(folder, folder.split("/")[1], self._workspace.read(f"{folder}/{RESULT}") or b"")
            if record.data and _is_broken(record.data):
                yield _Fault(record.record, "unreadable", record)
            elif record.data:  # Without one: an attempt that has not ended, or never will. `gc` drops it.
                records.append(record)
        yield from self._files(records)

    def told(self, fault: _Fault, *, repaired: bool) -> BrokenFile:
        """What a person is told of a fault."""
        parts = fault.name.split("/")
        if fault.by is not None:
            step, runs = fault.by.step, self._runs_of[fault.by.folder]
        else:
            step = parts[-2] if parts[0] == RUNS and parts[-1] != CONFIG else ""
            runs = {parts[1]} if parts[0] == RUNS else set()
        return BrokenFile(
            name=fault.name, problem=fault.problem, step=step, runs=tuple(sorted(runs)), repaired=repaired
        )

    def _result_of(self, run: RunFiles, file: StoredFile, data: bytes | None) -> _Named | None:
        """The record of a step of a run; None for another file, and for one that cannot be read."""
        pointed = pointed_by(file, data) if base_name(file.name) == RESULT else None
        if pointed is None or data is None:
            return None
        for folder in (pointed.folder, pointed.made, *folders_of(pointed.artifacts, self._workspace)):
            self._runs_of[folder].add(run.name)
        return _Named(pointed.folder, pointed.step, data)

    def _files(self, records: list[_Named]) -> Iterator[_Fault]:
        """Verify what the records name beside them."""
        named = [
            (record, name, artifact)
            for record in records
            for artifact in dict.fromkeys(artifacts_stored(record.data))
            if (name := artifact.uri.removeprefix(f"{self._workspace.uri}/")).startswith(f"{record.folder}/")
        ]
        self.files, self.size_bytes = len(named), sum(artifact.size_bytes for _, _, artifact in named)
        known = {name for _, name, _ in named} | {record.record for record in records}
        self.without_digest = sum(file.name not in known for files in self._stored.values() for file in files)
        total = sum(_kilobytes(artifact) for _, _, artifact in named)
        for record, name, artifact in track(
            named, "Verifying", total=total, unit="kB", count=lambda one: _kilobytes(one[2])
        ):
            digest = self._workspace.digest(name)
            # A step may have put another result in its place.
            if digest != artifact.sha256 and self._workspace.read(record.record) == record.data:
                yield _Fault(name, "missing" if digest is None else "changed", record)


def _kilobytes(artifact: Artifact) -> int:
    return -(-artifact.size_bytes // 1000)


def _is_broken(data: bytes | None) -> bool:
    """Whether what should be a record is none; a file that has just gone is not broken."""
    try:
        return data is not None and not isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return True
