"""What lies in a workspace, and who points to it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hpe_tasks.pipeline.runs import CONFIG, FAILURE, RUNS, UNFINISHED
from hpe_tasks.records.base import Artifact
from hpe_tasks.storage.workspace import RESULT, STORE, StoredFile, Workspace, artifacts_stored, stored_under

RUN_RECORDS = (CONFIG, RESULT, FAILURE)
"""The small files of a run that are written one by one; all else in it are files that they name."""


@dataclass(frozen=True)
class Pointed:
    """What a record of a run points to.

    Attributes:
        folder: Folder of the workspace that the record lies in.
        step: Name of the step that left it.
        made: Folder that its result is stored in, where the step is one whose results are.
        artifacts: All that its record names.
    """

    folder: str
    step: str
    made: str
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True)
class RunFiles:
    """The files of one run.

    Attributes:
        home: Its folder in the workspace.
    """

    home: str
    files: list[StoredFile] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's own name of its folder."""
        return self.home.partition("/")[2]

    @property
    def records(self) -> Iterator[StoredFile]:
        """The small files that tell how it went."""
        return (file for file in self.files if base_name(file.name) in RUN_RECORDS)

    @property
    def results(self) -> Iterator[StoredFile]:
        """Those that its steps left when they were done, those of its parts included."""
        return (file for file in self.files if base_name(file.name) == RESULT)

    @property
    def others(self) -> list[StoredFile]:
        """All that is no such record: what steps made, and links to what is stored."""
        return [file for file in self.files if base_name(file.name) not in RUN_RECORDS]

    @property
    def unfinished(self) -> list[StoredFile]:
        """What a training that has not ended goes on from."""
        return [file for file in self.files if file.name.startswith(f"{self.home}/{UNFINISHED}/")]

    @property
    def last_written(self) -> datetime | None:
        """When one of its records was written last, or its training went on."""
        return max((file.modified for file in (*self.records, *self.unfinished)), default=None)


def runs_in(workspace: Workspace) -> dict[str, RunFiles]:
    """The runs of a workspace, by their folder."""
    runs: dict[str, RunFiles] = {}
    for file in workspace.files(RUNS):
        home = "/".join(file.name.split("/")[:2])
        runs.setdefault(home, RunFiles(home)).files.append(file)
    return runs


def results_in(workspace: Workspace) -> dict[str, list[StoredFile]]:
    """Files of the stored results of steps, by the result's folder."""
    stored: dict[str, list[StoredFile]] = defaultdict(list)
    for file in workspace.files(STORE):
        parts = file.name.split("/")
        if len(parts) > 3:
            stored[stored_under(parts[1], parts[2])].append(file)
    return dict(stored)


def pointed_by(record: StoredFile, data: bytes | None) -> Pointed | None:
    """What the record of a run's step points to, whichever version of the code left it; None if it is broken."""
    try:
        read: Any = json.loads(data or b"")
        step, key = str(read["step"]), str(read["key"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    folder = record.name.rpartition("/")[0]
    return Pointed(folder, step, stored_under(step, key), tuple(artifacts_stored(data)))


def folders_of(artifacts: Iterable[Artifact], workspace: Workspace) -> set[str]:
    """Folders of the stored results that files belong to."""
    found = (workspace.result_of(artifact) for artifact in artifacts)
    return {stored_under(*result) for result in found if result is not None}


def base_name(name: str) -> str:
    """The last part of a name."""
    return name.rpartition("/")[2]
