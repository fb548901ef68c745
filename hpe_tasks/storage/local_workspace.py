"""A workspace in a folder of this machine or of a shared file system."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import override

from hpe_tasks.errors import AccessError
from hpe_tasks.records.base import Artifact
from hpe_tasks.storage.files import link_file, path_of, sha256_file, storage_errors, write_atomically
from hpe_tasks.storage.private import FILE_MODE, close_to_others, make_private_folder
from hpe_tasks.storage.scratch import drop
from hpe_tasks.storage.temporary import replacing
from hpe_tasks.storage.workspace import RESULT, Scratch, StoredFile, Workspace, verified

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}
"""What file systems answer that have no hard links."""


class LocalWorkspace(Workspace):
    """A workspace in a folder of this machine or of a shared file system; what it writes is closed to others."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.uri = self.root.as_uri()

    @override
    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    @override
    def write(self, name: str, data: bytes) -> None:
        path = self.root / name
        self._make_folder(path.parent)
        write_atomically(path, data, mode=FILE_MODE)

    @override
    def create(self, name: str, data: bytes) -> bool:
        path = self.root / name
        self._make_folder(path.parent)
        # Whole under a name of its own first: whoever finds the file reads all of it.
        working = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            write_atomically(working, data, mode=FILE_MODE)
            with storage_errors(path):
                return _link_new(working, path)
        finally:
            working.unlink(missing_ok=True)

    @override
    def put(self, name: str, file: Path) -> None:
        path = self.root / name
        self._make_folder(path.parent)
        with storage_errors(path), file.open("rb") as given, replacing(path, mode=FILE_MODE) as taken:
            shutil.copyfileobj(given, taken)

    @override
    def fetch(self, name: str, file: Path) -> None:
        source = self.root / name
        if not source.is_file():
            raise AccessError(f"{source} is gone.", hint="Run the step that makes it again.")
        with storage_errors(file):
            shutil.copyfile(source, file)

    @override
    def folders(self, name: str) -> tuple[str, ...]:
        parent = self.root / name
        return tuple(sorted(p.name for p in parent.iterdir() if p.is_dir())) if parent.is_dir() else ()

    @override
    def files(self, below: str) -> Iterator[StoredFile]:
        for folder, _, names in os.walk(self.root / below):
            for path in (Path(folder) / name for name in names):
                with suppress(FileNotFoundError):  # a step has just replaced it
                    found = path.stat(follow_symlinks=False)
                    # A hard link has the times of its file, but being made changes the file's status.
                    seconds = found.st_mtime if path.name[0] != "." else max(found.st_mtime, found.st_ctime)
                    modified = datetime.fromtimestamp(seconds, UTC)
                    yield StoredFile(path.relative_to(self.root).as_posix(), found.st_size, modified)

    @override
    def remove(self, name: str) -> None:
        with storage_errors(self.root / name):
            (self.root / name).unlink(missing_ok=True)

    @override
    def discard(self, prefix: str) -> None:
        with storage_errors(self.root / prefix):
            drop(self.root / prefix, self._scratch_parent())

    @override
    def digest(self, name: str) -> str | None:
        try:
            return sha256_file(self.root / name)
        except FileNotFoundError:
            return None

    @override
    def abandon_uploads(self, before: datetime) -> int:
        return 0

    @override
    def attach(self, prefix: str, stored: str | None, pointer: bytes) -> None:
        folder = self.root / prefix
        if stored is not None:
            source = self.root / stored
            with storage_errors(folder):
                for file in (p for p in source.rglob("*") if p.is_file() and p.name != RESULT):
                    shown = folder / file.relative_to(source)
                    self._make_folder(shown.parent)
                    link_file(file, shown)
        self.write(f"{prefix}/{RESULT}", pointer)

    @override
    def _local(self, artifact: Artifact) -> Path:
        path = path_of(artifact.uri)
        if not path.is_file():
            raise AccessError(f"{path} is gone.", hint="Run the step that makes it again.")
        return verified(path, artifact)

    @override
    def _scratch_parent(self) -> Path:
        parent = self.root / "scratch"
        self._make_folder(parent)
        return parent

    def _make_folder(self, folder: Path) -> None:
        with storage_errors(folder):
            make_private_folder(folder, self.root)

    @override
    @contextmanager
    def _scratch(self, prefix: str) -> Iterator[Scratch]:
        with self._scratch_at(prefix) as scratch:
            yield scratch

    @override
    def _keep(self, prefix: str, scratch: Scratch, record: bytes) -> None:
        final = self.root / prefix
        self._make_folder(final.parent)
        write_atomically(scratch.path / RESULT, record)
        close_to_others(scratch.path)
        try:
            scratch.path.rename(final)
        except OSError as error:
            # Another process stored the same step's result first: theirs counts.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise

    @override
    def _move(self, name: str, file: Path) -> None:
        final = self.root / name
        self._make_folder(final.parent)
        close_to_others(file)
        file.replace(final)

    @override
    def _intact(self, artifact: Artifact) -> bool:
        path = path_of(artifact.uri)
        return path.is_file() and path.stat().st_size == artifact.size_bytes

    @override
    def _drop(self, prefix: str) -> None:
        drop(self.root / prefix, self._scratch_parent())


def _link_new(file: Path, path: Path) -> bool:
    """Give a file a second name that nothing has yet; False when something has it."""
    try:
        os.link(file, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            with path.open("xb") as copy:
                copy.write(file.read_bytes())
        except FileExistsError:
            return False
    return True
