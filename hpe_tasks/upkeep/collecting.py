"""Dropping what no run of the last days points to, beside runs that are under way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Literal

from hpe_tasks.config.base import Frozen
from hpe_tasks.pipeline.runs import LATEST, RUNS, UNFINISHED
from hpe_tasks.progress import track
from hpe_tasks.records.base import Artifact
from hpe_tasks.storage.claims import CLAIMS, CLOCK, COLLECTING, claim_file, collecting
from hpe_tasks.storage.workspace import RESULT, WATCHING, StoredFile, Workspace, artifacts_stored
from hpe_tasks.upkeep.contents import (
    Pointed,
    RunFiles,
    base_name,
    folders_of,
    pointed_by,
    results_in,
    runs_in,
)

_SETTLED = timedelta(days=2)
"""What was written or claimed since may belong to a step that has not told its run yet; no step takes as long."""

Kind = Literal[
    "result", "files of an old run", "old run", "leftover", "unfinished upload", "scratch", "unfinished training"
]


class Dropped(Frozen):
    """Something that a collection drops.

    Attributes:
        name: Its folder or file in the workspace, or how many there were.
        size_bytes: What goes with it; of files that are links to a result's, nothing beside what the result has.
    """

    kind: Kind
    name: str
    files: int
    size_bytes: int


class Collection(Frozen):
    """What a collection has dropped, or would drop.

    Attributes:
        deleted: Whether it is gone; otherwise it was only looked for.
        recent_runs: Runs that were in use in these days: what they point to stays.
        kept_results: Stored results of steps that stay.
    """

    workspace: str
    deleted: bool
    keep_days: int
    runs: int
    recent_runs: int
    kept_results: int
    dropped: tuple[Dropped, ...]

    @property
    def size_bytes(self) -> int:
        """What was freed, or would be."""
        return sum(one.size_bytes for one in self.dropped)


@dataclass(frozen=True)
class _Doomed:
    """Something to drop: a folder, or single files."""

    told: Dropped
    folder: str = ""
    names: tuple[str, ...] = ()


def collect(
    workspace: Workspace, keep_days: int, *, delete: bool = False, drop_runs: bool = False, now: datetime | None = None
) -> Collection:
    """Drop the results of steps that no run of the last days points to, and what killed runs have left.

    Runs may be under way: what they use stays, and a step that is about to look for a stored result waits meanwhile.

    Args:
        workspace: What to clear.
        keep_days: A run that a step worked in since then keeps all that it points to; at least two days count.
        delete: Drop it; otherwise only say what would go.
        drop_runs: Drop the older runs as well: their records and reports. Otherwise `hpe show` still tells of them.
        now: The time to count from, now by default.
    """
    now = now or datetime.now(UTC)
    with collecting(workspace) if delete else nullcontext(_nothing) as still_collecting:
        look = _Look(workspace, now, now - max(timedelta(days=keep_days), _SETTLED))
        doomed = [*look.results(), *look.runs(drop_runs), *look.leftovers()]
        if delete:
            for one in track(doomed, "Deleting", unit="folders"):
                still_collecting()
                _delete(workspace, one)
    told = [one.told for one in doomed]
    if delete:
        told += [
            Dropped(kind=kind, name=f"{count} of killed steps", files=count, size_bytes=0)
            for kind, count in _left_by_the_killed(workspace, now)
            if count
        ]
    return Collection(
        workspace=workspace.uri,
        deleted=delete,
        keep_days=keep_days,
        runs=len(look.all_runs),
        recent_runs=len(look.recent),
        kept_results=len(look.kept),
        dropped=tuple(told),
    )


def _nothing() -> None:
    """Announce nothing: nothing is deleted."""


def _left_by_the_killed(workspace: Workspace, now: datetime) -> Iterator[tuple[Kind, int]]:
    yield "unfinished upload", workspace.abandon_uploads(now - _SETTLED)
    yield "scratch", workspace.sweep()


def _delete(workspace: Workspace, one: _Doomed) -> None:
    if one.folder:
        workspace.discard(one.folder)
    for name in one.names:
        workspace.remove(name)


class _Look:
    """What is in use in a workspace, and what is not. Looks at claims first: see `storage.claims`."""

    def __init__(self, workspace: Workspace, now: datetime, since: datetime) -> None:
        self._workspace = workspace
        self._settled = now - _SETTLED
        self._claims = {file.name: file for file in workspace.files(CLAIMS)}
        self.all_runs = runs_in(workspace)
        self._stored = results_in(workspace)
        self.recent = {home for home, run in self.all_runs.items() if self._in_use(run, since)}
        self._named: set[Artifact] = set()
        self.kept = self._kept()

    def results(self) -> Iterator[_Doomed]:
        """Stored results that nobody needs; and in those that stay, files of attempts that were not the first."""
        for folder, files in self._stored.items():
            if folder not in self.kept:
                yield _Doomed(_told("result", folder, files), folder=folder)
            elif files := self._of_lost_attempts(folder, files):
                yield _Doomed(_told("leftover", folder, files), names=_names(files))

    def runs(self, whole: bool) -> Iterator[_Doomed]:
        """Runs that are not recent: all of them, or what is left of trainings and files whose results are gone."""
        for home in sorted(self.all_runs.keys() - self.recent):
            run = self.all_runs[home]
            if whole:
                yield _Doomed(_told("old run", home, run.files), folder=home)
                continue
            if run.unfinished:
                folder = f"{home}/{UNFINISHED}"
                yield _Doomed(_told("unfinished training", folder, run.unfinished), folder=folder)
            if run.others:
                yield from self._shown_in(run)

    def _shown_in(self, run: RunFiles) -> Iterator[_Doomed]:
        """Files of a run that show those of results that are gone, or go now."""
        shown, size = [], 0
        for pointed in self._read(run):
            if pointed.made not in self.kept:
                files = [file for file in run.others if _is_shown(file, pointed)]
                shown += files
                # With the result they are two names of one file.
                size += 0 if pointed.made in self._stored else sum(file.size_bytes for file in files)
        if shown:
            told = _told("files of an old run", run.home, shown)
            yield _Doomed(told.model_copy(update={"size_bytes": size}), names=_names(shown))

    def leftovers(self) -> Iterator[_Doomed]:
        """Half-written files of killed processes, and claims and announcements that say nothing any more."""
        old = [file for file in self._claims.values() if file.modified < self._settled]
        marks = (file for folder in (COLLECTING, CLOCK) for file in self._workspace.files(folder))
        old += [file for file in marks if file.modified < self._settled]
        files = [file for run in self.all_runs.values() for file in run.files]
        files += self._workspace.files(WATCHING)
        old += [file for file in files if base_name(file.name).startswith(".") and file.modified < self._settled]
        if old:
            told = Dropped(
                kind="leftover",
                name=f"{len(old)} half-written files and old marks",
                files=len(old),
                size_bytes=sum(file.size_bytes for file in old),
            )
            yield _Doomed(told, names=_names(old))

    def _in_use(self, run: RunFiles, since: datetime) -> bool:
        """Whether a step worked in a run since then; and the run that reported last stays whatever its age."""
        last = run.last_written
        mine = self._claims.get(claim_file(run.home))
        times = [*([] if last is None else [last]), *([] if mine is None else [mine.modified])]
        return run.home == self._latest or any(time >= since for time in times)

    @cached_property
    def _latest(self) -> str:
        try:
            return f"{RUNS}/{json.loads(self._workspace.read(LATEST) or b'')['run']}"
        except (ValueError, TypeError, KeyError):
            return ""

    def _read(self, run: RunFiles) -> list[Pointed]:
        found = (pointed_by(file, self._workspace.read(file.name)) for file in run.results)
        return [pointed for pointed in found if pointed is not None]

    def _kept(self) -> set[str]:
        """Folders of results that stay: what recent runs point to, what is new or claimed, and what these name."""
        wanted: set[str] = set()
        for home in track(sorted(self.recent), "Reading", unit="runs"):
            for pointed in self._read(self.all_runs[home]):
                self._named |= set(pointed.artifacts)
                wanted.add(pointed.made)
        wanted |= folders_of(self._named, self._workspace)
        wanted |= {folder for folder, files in self._stored.items() if self._is_new(folder, files)}
        kept: set[str] = set()
        while waiting := (wanted - kept) & self._stored.keys():
            kept |= waiting
            for folder in waiting:
                artifacts = set(artifacts_stored(self._workspace.read(f"{folder}/{RESULT}")))
                self._named |= artifacts
                wanted |= folders_of(artifacts, self._workspace)
        return kept

    def _is_new(self, folder: str, files: list[StoredFile]) -> bool:
        claimed = self._claims.get(claim_file(folder))
        return any(file.modified >= self._settled for file in (*files, *([claimed] if claimed else ())))

    def _of_lost_attempts(self, folder: str, files: list[StoredFile]) -> list[StoredFile]:
        """Files on S3 of an attempt that was killed, that another one was quicker than, or that was made again."""
        names = (artifact.uri.removeprefix(f"{self._workspace.uri}/") for artifact in self._named)
        used = {_attempt(name, folder) for name in names if name.startswith(f"{folder}/")}
        return [
            file
            for file in files
            if (attempt := _attempt(file.name, folder)) and attempt not in used and file.modified < self._settled
        ]


_ATTEMPT_DIGITS = 12
"""Of the folders that attempts at one result have on S3."""


def _attempt(name: str, folder: str) -> str:
    """The folder of one attempt that a file lies in; empty where it lies in none."""
    inner = name.removeprefix(f"{folder}/").split("/")
    digits = inner[0]
    is_one = len(inner) > 1 and len(digits) == _ATTEMPT_DIGITS and set(digits) <= set("0123456789abcdef")
    return f"{folder}/{digits}" if is_one else ""


def _is_shown(file: StoredFile, pointed: Pointed) -> bool:
    """Whether a file of a run lies beside the record of a step that does not name it as its own."""
    own = any(artifact.uri.endswith(f"/{file.name}") for artifact in pointed.artifacts)
    return file.name.startswith(f"{pointed.folder}/") and not own


def _told(kind: Kind, name: str, files: list[StoredFile]) -> Dropped:
    return Dropped(kind=kind, name=name, files=len(files), size_bytes=sum(file.size_bytes for file in files))


def _names(files: list[StoredFile]) -> tuple[str, ...]:
    return tuple(file.name for file in files)
