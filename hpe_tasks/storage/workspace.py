"""Where runs keep their artifacts: a local folder or an S3 prefix, with the same promises.

Layout, under the workspace's address::

    store/<step>/<key>/            what a step made from the inputs that `key` is the digest of; never changed
    runs/<run>/<step>/result.json  the step's record in a run; points into the store
    runs/<run>/run.json            what the run was asked, and when
    latest.json                    the run that reported last
    trusted/                       what addresses gave when they were first used
    watching/                      what is remembered of watched channels, and which reasons have started a run
    used/, collecting/, clock/     what is in use, who is deleting, and since when: see `claims`

A record is written after the files that it names, and each in one piece, so that whatever can be read is complete.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hpe_tasks.errors import DigestError, StorageError
from hpe_tasks.records.base import Artifact, Record
from hpe_tasks.storage.claims import claim
from hpe_tasks.storage.files import sha256_file, storage_errors
from hpe_tasks.storage.scratch import scratch_folder, sweep

R = TypeVar("R", bound=Record)

RESULT = "result.json"

STORE = "store"
WATCHING = "watching"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredFile:
    """A file of a workspace: its name there, and when it was last written (for a name that begins with a dot: made)."""

    name: str
    size_bytes: int
    modified: datetime


@dataclass(frozen=True)
class Scratch:
    """A folder that a step fills, and the address that its files will have once they are kept.

    Attributes:
        path: Local folder; empty at first.
        uri: Address that `path` will be known by.
    """

    path: Path
    uri: str

    def artifact(self, file: Path) -> Artifact:
        """Describe a file under `path` by its digest, size and final address."""
        name = file.relative_to(self.path).as_posix()
        return Artifact(uri=f"{self.uri}/{name}", sha256=sha256_file(file), size_bytes=file.stat().st_size)


def stored_under(step: str, key: str) -> str:
    """Folder of a workspace that holds what a step made from the inputs with this digest."""
    return f"{STORE}/{step}/{key}"


class Workspace(ABC):
    """Keeps what steps make, for other steps and other machines to find."""

    uri: str

    def once(
        self,
        step: str,
        key: str,
        kind: type[R],
        make: Callable[[Scratch], R],
        *,
        reusable: Callable[[R], bool] = lambda _: True,
    ) -> tuple[R, bool]:
        """Return what is stored under `key`, or make and store it.

        Args:
            step: Name of the step.
            key: Digest of everything that decides the outcome.
            kind: Type of the step's record.
            make: Fills the scratch folder and returns the record.
            reusable: Whether a stored record may stand in; one that may not is made again and replaced.

        Returns:
            The record, and whether it was there already. When two processes make it at the same time, both get the
            record that was stored first.
        """
        prefix = stored_under(step, key)
        claim(self, prefix)
        stored = self._stored(prefix, kind)
        if stored is not None and reusable(stored):
            return stored, True
        with self._scratch(prefix) as scratch, storage_errors(scratch.path):
            record = make(scratch)
            if stored is not None:
                self._drop(prefix)
            self._keep(prefix, scratch, record.model_dump_json(indent=1).encode())
        kept = self._stored(prefix, kind)
        if kept is None:
            raise StorageError(f"{self.uri}/{prefix} vanished while it was being written.", hint="Run the step again.")
        return kept, False

    def renew(self, prefix: str, make: Callable[[Scratch], R]) -> R:
        """Make a record and put its files under `prefix` itself, in place of older ones; `attach` completes it."""
        with self._scratch_at(prefix) as scratch, storage_errors(scratch.path):
            record = make(scratch)
            for file in sorted(p for p in scratch.path.rglob("*") if p.is_file()):
                self._move(f"{prefix}/{file.relative_to(scratch.path).as_posix()}", file)
        return record

    @contextmanager
    def _scratch_at(self, prefix: str) -> Iterator[Scratch]:
        parent = self._scratch_parent()
        with storage_errors(parent), scratch_folder(parent) as folder:
            yield Scratch(folder, f"{self.uri}/{prefix}")

    def _stored(self, prefix: str, kind: type[R]) -> R | None:
        data = self.read(f"{prefix}/{RESULT}")
        if data is None:
            return None
        try:
            record = kind.model_validate_json(data)
        except ValidationError:
            log.warning("%s/%s cannot be read and is made again", self.uri, prefix)
            self._drop(prefix)
            return None
        lost = [a.uri for a in artifacts_of(record) if not self._intact(a)]
        if lost:
            log.warning("%s is missing or changed; %s is made again", lost[0], prefix)
            self._drop(prefix)
            return None
        return record

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Read a small file by its name under the workspace; None where there is none."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a small file in one piece, in place of an older one."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write a small file that must not be there yet; False, and nothing written, when it is. Of many, one wins."""

    @abstractmethod
    def put(self, name: str, file: Path) -> None:
        """Copy a file of any size to the workspace, in place of an older one; nobody ever finds a part of it."""

    @abstractmethod
    def fetch(self, name: str, file: Path) -> None:
        """Copy a file of the workspace to this machine; raises AccessError where it is not there."""

    @abstractmethod
    def folders(self, name: str) -> tuple[str, ...]:
        """Names of the folders directly under `name`, sorted."""

    @abstractmethod
    def files(self, below: str) -> Iterator[StoredFile]:
        """All files in a folder and the folders in it; none where it is not there. In no order."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a small file, if it is there."""

    @abstractmethod
    def discard(self, prefix: str) -> None:
        """Remove a folder with everything in it, if it is there; nobody ever finds a part of a result in it."""

    @abstractmethod
    def digest(self, name: str) -> str | None:
        """SHA-256 of a file as it is read now; empty where its storage knows that it is broken, None without one."""

    def sweep(self) -> int:
        """Remove what killed steps left on this machine; returns how many folders."""
        return sweep(self._scratch_parent())

    @abstractmethod
    def abandon_uploads(self, before: datetime) -> int:
        """End uploads that began before then and were never completed; returns how many there were."""

    @abstractmethod
    def attach(self, prefix: str, stored: str | None, pointer: bytes) -> None:
        """Write `pointer` as `result.json` under `prefix`; where possible, beside links to the files in `stored`."""

    def local(self, artifact: Artifact) -> Path:
        """A local file with the artifact's bytes, verified.

        A stored result that it belongs to is forgotten where the bytes are others, so that its step makes it again.

        Raises:
            AccessError: It is not there.
            DigestError: Its bytes are not those that were recorded.
        """
        try:
            return self._local(artifact)
        except DigestError:
            # Once more: it may have been spoilt on the way, or another process has made it again meanwhile.
            try:
                return self._local(artifact)
            except DigestError as error:
                stored = self.result_of(artifact)
                if stored is None:
                    raise
                # On S3 what is made again has other addresses: the result may be good by now.
                if artifact in artifacts_stored(self.read(f"{stored_under(*stored)}/{RESULT}")):
                    self.forget(*stored)
                raise _forgotten(error, stored[0]) from error

    def forget(self, step: str, key: str) -> None:
        """Let a stored result stand in no more: a step with these inputs makes it again."""
        self._drop(stored_under(step, key))

    def result_of(self, artifact: Artifact) -> tuple[str, str] | None:
        """Step and key of the stored result that a file belongs to; None for a file that is elsewhere."""
        parts = artifact.uri.removeprefix(f"{self.uri}/").split("/")
        return (parts[1], parts[2]) if parts[0] == STORE and len(parts) > 3 else None

    @abstractmethod
    def _local(self, artifact: Artifact) -> Path: ...

    @abstractmethod
    def _scratch_parent(self) -> Path: ...

    @abstractmethod
    def _scratch(self, prefix: str) -> AbstractContextManager[Scratch]: ...

    @abstractmethod
    def _keep(self, prefix: str, scratch: Scratch, record: bytes) -> None: ...

    @abstractmethod
    def _move(self, name: str, file: Path) -> None: ...

    @abstractmethod
    def _intact(self, artifact: Artifact) -> bool: ...

    @abstractmethod
    def _drop(self, prefix: str) -> None: ...


def artifacts_of(value: Any) -> Iterator[Artifact]:
    """Every artifact inside a record."""
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from artifacts_of(item)
    elif hasattr(type(value), "model_fields"):
        for name in type(value).model_fields:
            yield from artifacts_of(getattr(value, name))


def artifacts_stored(data: bytes | None) -> list[Artifact]:
    """Every artifact inside a stored record, whichever version of the code wrote it; none where it cannot be read."""
    try:
        return list(_artifacts_within(json.loads(data or b"null")))
    except (ValueError, RecursionError):
        return []


def _artifacts_within(value: Any) -> Iterator[Artifact]:
    if isinstance(value, dict) and value.keys() == Artifact.model_fields.keys():
        with suppress(ValidationError):
            yield Artifact.model_validate(value)
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _artifacts_within(inner)


def verified(path: Path, artifact: Artifact) -> Path:
    """The file if it is still what was recorded; raises DigestError otherwise."""
    actual = sha256_file(path)
    if actual != artifact.sha256:
        raise DigestError(
            f"{artifact.uri} was changed: its SHA-256 is {actual}, recorded was {artifact.sha256}.",
            hint="Run the step that made it again.",
        )
    return path


def _forgotten(error: DigestError, step: str) -> DigestError:
    return DigestError(
        f"{error.message} It is a result of {step}, which stands in for nothing any more.",
        hint=f"Run the whole again, or {step} and what follows it: the broken result is made anew, the others are "
        "reused. `hpe workspace check` looks for more.",
    )
