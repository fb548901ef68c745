"""Where runs keep their artifacts: a local folder or an S3 prefix, with the same promises.

Layout, under the workspace's address::

    store/<step>/<key>/            what a step made from the inputs that `key` is the digest of; never changed
    runs/<run>/<step>/result.json  the step's record in a run; points into the store
    runs/<run>/run.json            what the run was asked, and when
    latest.json                    the run that reported last

A record is written after the files that it names, and each in one piece, so that whatever can be read is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError
from typing_extensions import override

from hpe_tasks.errors import AccessError, ConfigError, DigestError, StorageError
from hpe_tasks.records import Artifact, Record
from hpe_tasks.storage.s3 import S3Location, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

R = TypeVar("R", bound=Record)

RESULT = "result.json"

_ABANDONED_S = 2 * 24 * 3600

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    errno.EACCES,
    errno.EEXIST,
    errno.EIO,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}

log = logging.getLogger(__name__)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON-able value; equal for equal values whatever the order of their keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextmanager
def storage_errors(where: Path | str, *, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn what the disk refuses while `where` is written into StorageError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            need = f" It needs {megabytes(needed_bytes)}." if needed_bytes else ""
            raise StorageError(
                f"The disk is full: {where} could not be written.{need}",
                hint="Free some space, or use a folder on a larger disk.",
            ) from error
        if error.errno in _REFUSED:
            raise StorageError(
                f"{error.filename or where} could not be written: {error.strerror}.",
                hint="Check the folder and its rights.",
            ) from error
        raise


def megabytes(size_bytes: int) -> str:
    """A size as people read it."""
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 100_000 else f"{size_bytes:,} bytes"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside `path` and rename it, so that readers never see a part of it."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


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
        prefix = f"store/{step}/{key}"
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
                self._put(f"{prefix}/{file.relative_to(scratch.path).as_posix()}", file)
        return record

    @contextmanager
    def _scratch_at(self, prefix: str) -> Iterator[Scratch]:
        _sweep(self._scratch_parent())
        with tempfile.TemporaryDirectory(prefix="hpe-", dir=self._scratch_parent()) as folder:
            yield Scratch(Path(folder), f"{self.uri}/{prefix}")

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
    def folders(self, name: str) -> tuple[str, ...]:
        """Names of the folders directly under `name`, sorted."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a small file, if it is there."""

    @abstractmethod
    def attach(self, prefix: str, stored: str | None, pointer: bytes) -> None:
        """Write `pointer` as `result.json` under `prefix`; where possible, beside links to the files in `stored`."""

    @abstractmethod
    def local(self, artifact: Artifact) -> Path:
        """A local file with the artifact's bytes, verified.

        Raises:
            AccessError: It is not there.
            DigestError: Its bytes are not those that were recorded.
        """

    @abstractmethod
    def _scratch_parent(self) -> Path: ...

    @abstractmethod
    def _scratch(self, prefix: str) -> AbstractContextManager[Scratch]: ...

    @abstractmethod
    def _keep(self, prefix: str, scratch: Scratch, record: bytes) -> None: ...

    @abstractmethod
    def _put(self, name: str, file: Path) -> None: ...

    @abstractmethod
    def _intact(self, artifact: Artifact) -> bool: ...

    @abstractmethod
    def _drop(self, prefix: str) -> None: ...


def _sweep(parent: Path) -> None:
    """Remove what killed processes left behind; no step works on one folder for two days."""
    for folder in parent.iterdir():
        with suppress(FileNotFoundError):  # another step has just finished with it
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


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


def _verified(path: Path, artifact: Artifact) -> Path:
    actual = sha256_file(path)
    if actual != artifact.sha256:
        raise DigestError(
            f"{artifact.uri} was changed: its SHA-256 is {actual}, recorded was {artifact.sha256}.",
            hint="Delete it and run the step that makes it again.",
        )
    return path


def path_of(uri: str) -> Path:
    """The local path that a `file://` address names."""
    return Path(unquote(urlsplit(uri).path))


class LocalWorkspace(Workspace):
    """A workspace in a folder of this machine or of a shared file system."""

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
        write_atomically(self.root / name, data)

    @override
    def folders(self, name: str) -> tuple[str, ...]:
        parent = self.root / name
        return tuple(sorted(p.name for p in parent.iterdir() if p.is_dir())) if parent.is_dir() else ()

    @override
    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    @override
    def attach(self, prefix: str, stored: str | None, pointer: bytes) -> None:
        folder = self.root / prefix
        if stored is not None:
            source = self.root / stored
            with storage_errors(folder):
                for file in (p for p in source.rglob("*") if p.is_file() and p.name != RESULT):
                    shown = folder / file.relative_to(source)
                    shown.parent.mkdir(parents=True, exist_ok=True)
                    link_file(file, shown)
        self.write(f"{prefix}/{RESULT}", pointer)

    @override
    def local(self, artifact: Artifact) -> Path:
        path = path_of(artifact.uri)
        if not path.is_file():
            raise AccessError(f"{path} is gone.", hint="Run the step that makes it again.")
        return _verified(path, artifact)

    @override
    def _scratch_parent(self) -> Path:
        parent = self.root / "scratch"
        with storage_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
        return parent

    @override
    @contextmanager
    def _scratch(self, prefix: str) -> Iterator[Scratch]:
        with self._scratch_at(prefix) as scratch:
            inner = scratch.path / "files"
            inner.mkdir()
            yield Scratch(inner, scratch.uri)

    @override
    def _keep(self, prefix: str, scratch: Scratch, record: bytes) -> None:
        final = self.root / prefix
        final.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(scratch.path / RESULT, record)
        try:
            scratch.path.rename(final)
        except OSError as error:
            # Somebody else stored the same step's result first: theirs counts.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise

    @override
    def _put(self, name: str, file: Path) -> None:
        final = self.root / name
        final.parent.mkdir(parents=True, exist_ok=True)
        file.replace(final)

    @override
    def _intact(self, artifact: Artifact) -> bool:
        path = path_of(artifact.uri)
        return path.is_file() and path.stat().st_size == artifact.size_bytes

    @override
    def _drop(self, prefix: str) -> None:
        aside = self._scratch_parent() / f"dropped-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):  # another step has just done the same
            (self.root / prefix).rename(aside)
            shutil.rmtree(aside)


def link_file(file: Path, shown: Path) -> None:
    """Hard-link `file` as `shown`, in place of an older one; copy where the file system has no links."""
    temporary = shown.with_name(f".{shown.name}.{uuid.uuid4().hex[:8]}")
    try:
        os.link(file, temporary)
    except OSError:
        shutil.copy2(file, temporary)
    temporary.replace(shown)


class S3Workspace(Workspace):
    """A workspace under an S3 prefix, for workers that share nothing else.

    Args:
        location: Bucket and prefix.
        client: S3 client.
        cache: Local folder for files on their way in and out.
    """

    def __init__(self, location: S3Location, client: S3Client, cache: Path) -> None:
        self.location = location
        self.uri = str(location)
        self.client = client
        self.cache = cache

    @override
    def read(self, name: str) -> bytes | None:
        from botocore.exceptions import ClientError

        where = self.location / name
        with s3_errors(where, "reading"):
            try:
                return self.client.get_object(Bucket=where.bucket, Key=where.key)["Body"].read()
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                    return None
                raise

    @override
    def write(self, name: str, data: bytes) -> None:
        where = self.location / name
        with s3_errors(where, "writing"):
            self.client.put_object(Bucket=where.bucket, Key=where.key, Body=data, ChecksumAlgorithm="SHA256")

    @override
    def folders(self, name: str) -> tuple[str, ...]:
        where = self.location / name
        with s3_errors(where, "listing"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=where.bucket, Prefix=f"{where.key}/", Delimiter="/"
            )
            found = [entry["Prefix"] for page in pages for entry in page.get("CommonPrefixes", ())]
        return tuple(sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found))

    @override
    def remove(self, name: str) -> None:
        where = self.location / name
        with s3_errors(where, "removing"):
            self.client.delete_object(Bucket=where.bucket, Key=where.key)

    @override
    def attach(self, prefix: str, stored: str | None, pointer: bytes) -> None:
        self.write(f"{prefix}/{RESULT}", pointer)

    @override
    def local(self, artifact: Artifact) -> Path:
        path = self.cache / "files" / artifact.sha256 / Path(artifact.uri).name
        if path.is_file() and sha256_file(path) == artifact.sha256:
            return path
        where = S3Location.parse(artifact.uri)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        with storage_errors(path), s3_errors(where, "reading"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.client.download_file(where.bucket, where.key, str(temporary))
                _verified(temporary, artifact).replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return path

    @override
    def _scratch_parent(self) -> Path:
        parent = self.cache / "scratch"
        with storage_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
        return parent

    @override
    @contextmanager
    def _scratch(self, prefix: str) -> Iterator[Scratch]:
        # Each attempt has its own folder: two makers of one result cannot mix their files.
        with self._scratch_at(f"{prefix}/{uuid.uuid4().hex[:12]}") as scratch:
            yield scratch

    @override
    def _keep(self, prefix: str, scratch: Scratch, record: bytes) -> None:
        for file in sorted(p for p in scratch.path.rglob("*") if p.is_file()):
            self._put_at(S3Location.parse(scratch.uri) / file.relative_to(scratch.path).as_posix(), file)
        from botocore.exceptions import ClientError

        where = self.location / prefix / RESULT
        with s3_errors(where, "writing"):
            try:
                self.client.put_object(Bucket=where.bucket, Key=where.key, Body=record, IfNoneMatch="*")
            except ClientError as error:
                # Somebody else stored the same step's result first: theirs counts.
                if error.response.get("Error", {}).get("Code") not in {"PreconditionFailed", "412"}:
                    raise

    @override
    def _put(self, name: str, file: Path) -> None:
        self._put_at(self.location / name, file)

    def _put_at(self, where: S3Location, file: Path) -> None:
        with s3_errors(where, "writing"):
            self.client.upload_file(str(file), where.bucket, where.key, ExtraArgs={"ChecksumAlgorithm": "SHA256"})

    @override
    def _intact(self, artifact: Artifact) -> bool:
        where = S3Location.parse(artifact.uri)
        try:
            with s3_errors(where, "reading"):
                head = self.client.head_object(Bucket=where.bucket, Key=where.key)
        except AccessError:
            return False
        return head["ContentLength"] == artifact.size_bytes

    @override
    def _drop(self, prefix: str) -> None:
        self.remove(f"{prefix}/{RESULT}")


def open_workspace(uri: str, *, s3: Callable[[], S3Client], cache: Path) -> Workspace:
    """Open the workspace at a `file://` or `s3://` address.

    Args:
        uri: The address.
        s3: Makes the client, when one is needed.
        cache: Local folder for files of a remote workspace.
    """
    if uri.startswith("s3://"):
        return S3Workspace(S3Location.parse(uri), s3(), cache)
    if uri.startswith("file://"):
        return LocalWorkspace(path_of(uri))
    raise ConfigError(f"{uri!r} is not a workspace.", hint="Use file:///folder or s3://bucket/prefix.")
