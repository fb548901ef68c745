"""A local copy of the part of an S3 prefix that a run needs: parallel, resumable object by object."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.data.annotation_files import is_safe_file_name
from hpe_tasks.errors import DatasetError, TransientError
from hpe_tasks.progress import track
from hpe_tasks.storage.files import storage_errors
from hpe_tasks.storage.folders import check_space, hold, locked
from hpe_tasks.storage.s3 import S3Location, read_whole, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

_THREADS = 8
_CHUNK = 2**20


@dataclass(frozen=True)
class _ListedObject:
    """An object of the data set: its name relative to the prefix, and which bytes it holds."""

    name: str
    etag: str
    size: int


def mirror_prefix(location: S3Location, client: S3Client, parts: Sequence[Sequence[str]], cache: Path) -> Path:
    """Copy the named parts of a prefix into a folder of their own under `cache`.

    Objects that are there with the same ETag are not read again, and files whose object is gone are removed. Every
    file is complete or absent; an interrupted copy continues with the objects that are missing.

    Args:
        location: The prefix.
        client: S3 client.
        parts: For each part the names that it may have, folders with a slash at the end; the first that is there
            counts.
        cache: Folder for the copies.

    Raises:
        DatasetError: A part is missing.
        AccessError: The bucket does not exist or is denied.
        TransientError: The network failed.
        StorageError: The disk is full or not writable.
    """
    identity = f"{client.meta.endpoint_url}|{location}"
    folder = cache / hashlib.sha256(identity.encode()).hexdigest()[:16]
    hold(folder)
    with locked(folder):
        wanted = _listing(location, client, parts)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            journal = folder / ".objects.jsonl"
            known = _read_journal(journal)
            present = {o.name: o for o in known if _is_there(folder, o)}
            _remove_others(folder, parts, {o.name for o in wanted})
            _write_journal(journal, present.values())
            missing = [o for o in wanted if present.get(o.name) != o]
            check_space(folder, sum(o.size for o in missing))
        if missing:
            log.info("Copying %d of %d objects of %s", len(missing), len(wanted), location)
            with storage_errors(journal), journal.open("a") as record:
                _copy_all(location, client, missing, folder, record)
    return folder


def listing_digest(location: S3Location, client: S3Client) -> str:
    """SHA-256 over names, ETags and sizes of all objects below a prefix: another one where anything there changed."""
    listed = hashlib.sha256()
    for one in _objects(location, client, ""):
        listed.update(json.dumps([one.name, one.etag, one.size]).encode())
    return listed.hexdigest()


def check_prefix(location: S3Location, client: S3Client, parts: Sequence[Sequence[str]]) -> None:
    """Raise what `mirror_prefix` would raise before it copies: a part is missing, or the bucket is out of reach."""
    for names in parts:
        if not any(next(_objects(location, client, name), None) for name in names):
            _refuse_part(location, client, names)


def _listing(location: S3Location, client: S3Client, parts: Sequence[Sequence[str]]) -> list[_ListedObject]:
    wanted: list[_ListedObject] = []
    for names in parts:
        found = next((found for name in names if (found := list(_objects(location, client, name)))), [])
        if not found:
            _refuse_part(location, client, names)
        wanted += found
    return wanted


def _refuse_part(location: S3Location, client: S3Client, names: Sequence[str]) -> NoReturn:
    raise DatasetError(
        f"{location} has no {names[0]}. {_what_is_there(location, client)}",
        hint="Give the prefix that holds the data set's folders, or an archive named .zip or .tar.gz.",
    )


def _objects(location: S3Location, client: S3Client, below: str) -> Iterator[_ListedObject]:
    base = f"{location.key}/" if location.key else ""
    with s3_errors(location, "listing"):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=location.bucket, Prefix=base + below):
            for entry in page.get("Contents", ()):
                name = entry["Key"].removeprefix(base)
                hidden = any(piece.startswith(".") and piece not in {".", ".."} for piece in name.split("/"))
                if name.endswith("/") or hidden or not (below == "" or below.endswith("/") or name == below):
                    continue
                if not is_safe_file_name(name):
                    raise DatasetError(
                        f"{location}: the key {entry['Key']!r} would be written outside the data set's folder.",
                        hint="Rename or remove the object.",
                    )
                yield _ListedObject(name, entry["ETag"], entry["Size"])


def _what_is_there(location: S3Location, client: S3Client) -> str:
    base = f"{location.key}/" if location.key else ""
    with s3_errors(location, "listing"):
        page = client.list_objects_v2(Bucket=location.bucket, Prefix=base, Delimiter="/", MaxKeys=9)
    names = [p["Prefix"].removeprefix(base) for p in page.get("CommonPrefixes", ())]
    names += [o["Key"].removeprefix(base) for o in page.get("Contents", ())]
    return f"It holds: {', '.join(names[:8]) or 'nothing'}{', …' if len(names) > 8 else ''}."


def _copy_all(
    location: S3Location, client: S3Client, missing: list[_ListedObject], folder: Path, record: IO[str]
) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(_THREADS) as pool:
        futures = {pool.submit(_copy, location, client, o, folder, stop): o for o in missing}
        failure: BaseException | None = None
        try:
            for future in track(as_completed(futures), f"Fetching {location}", total=len(futures), unit="files"):
                if future.cancelled():
                    continue
                if future.exception() is None:
                    # After the file: a crash in between costs one object, never a wrong file.
                    record.write(json.dumps(vars(futures[future])) + "\n")
                    record.flush()
                elif failure is None:
                    # What is under way may still arrive, and then need not be fetched again.
                    failure = future.exception()
                    for waiting in futures:
                        waiting.cancel()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        if failure is not None:
            raise failure


def _copy(location: S3Location, client: S3Client, wanted: _ListedObject, folder: Path, stop: threading.Event) -> None:
    from botocore.exceptions import ClientError

    target = folder / wanted.name
    working = target.with_name(f".{target.name}.part")
    where = location / wanted.name

    def read() -> None:
        body = client.get_object(Bucket=where.bucket, Key=where.key, IfMatch=wanted.etag)["Body"]
        with body, working.open("wb") as file:
            for chunk in body.iter_chunks(_CHUNK):
                if stop.is_set():
                    return
                file.write(chunk)

    with storage_errors(target, needed_bytes=wanted.size):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with s3_errors(where, "reading"):
                read_whole(read)
            if stop.is_set():
                return
            if working.stat().st_size != wanted.size:
                raise TransientError(f"{where} was cut off at {working.stat().st_size:,} of {wanted.size:,} bytes.")
            working.replace(target)
        except ClientError as error:
            if error_code(error) not in {"PreconditionFailed", "412"}:
                raise
            raise TransientError(f"{where} was replaced while the data set was read.", hint="Try again.") from error
        finally:
            working.unlink(missing_ok=True)


def _is_there(folder: Path, known: _ListedObject) -> bool:
    path = folder / known.name
    return path.is_file() and path.stat().st_size == known.size


def _remove_others(folder: Path, parts: Sequence[Sequence[str]], names: set[str]) -> None:
    for name in (name for alternatives in parts for name in alternatives if name.endswith("/")):
        part = folder / name
        for path in part.rglob("*"):
            if path.is_file() and path.relative_to(folder).as_posix() not in names:
                path.unlink()
        if part.is_dir() and not any(path.is_file() for path in part.rglob("*")):
            shutil.rmtree(part)  # An empty folder would be taken for the split's.


def _read_journal(journal: Path) -> list[_ListedObject]:
    if not journal.is_file():
        return []
    known = []
    for line in journal.read_text().splitlines():
        try:
            known.append(_ListedObject(**json.loads(line)))
        except (ValueError, TypeError):
            continue  # The line that was being written when the process was killed.
    return known


def _write_journal(journal: Path, objects: Iterable[_ListedObject]) -> None:
    working = journal.with_suffix(".tmp")
    working.write_text("".join(json.dumps(vars(o)) + "\n" for o in objects))
    working.replace(journal)
