"""A workspace under an S3 prefix, for workers that share nothing else."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from typing_extensions import override

from hpe_tasks.errors import AccessError, DigestError, StorageError
from hpe_tasks.records.base import Artifact
from hpe_tasks.storage.files import sha256_file, storage_errors
from hpe_tasks.storage.folders import hold
from hpe_tasks.storage.private import close_to_others, make_private_folder
from hpe_tasks.storage.s3 import S3Location, read_whole, s3_errors
from hpe_tasks.storage.s3_objects import put_new_bytes
from hpe_tasks.storage.temporary import replacing
from hpe_tasks.storage.workspace import RESULT, Scratch, StoredFile, Workspace, verified

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

_CHUNK_BYTES = 2**20
_MOST_KEYS = 1000
"""Of one DeleteObjects."""


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

        def content() -> bytes:
            return self.client.get_object(Bucket=where.bucket, Key=where.key)["Body"].read()

        with s3_errors(where, "reading"):
            try:
                return read_whole(content)
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
    def create(self, name: str, data: bytes) -> bool:
        return put_new_bytes(self.client, self.location / name, data, "writing")

    @override
    def put(self, name: str, file: Path) -> None:
        self._put_at(self.location / name, file)

    @override
    def fetch(self, name: str, file: Path) -> None:
        where = self.location / name
        with storage_errors(file), s3_errors(where, "reading"):
            self.client.download_file(where.bucket, where.key, str(file))

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
    def files(self, below: str) -> Iterator[StoredFile]:
        where, start = self.location / below, len((self.location / "x").key) - 1
        with s3_errors(where, "listing"):
            for page in self.client.get_paginator("list_objects_v2").paginate(
                Bucket=where.bucket, Prefix=f"{where.key}/"
            ):
                for entry in page.get("Contents", ()):
                    yield StoredFile(entry["Key"][start:], entry["Size"], entry["LastModified"])

    @override
    def discard(self, prefix: str) -> None:
        self._drop(prefix)
        names = [file.name for file in self.files(prefix)]
        where = self.location / prefix
        with s3_errors(where, "removing"):
            for begin in range(0, len(names), _MOST_KEYS):
                keys: list[ObjectIdentifierTypeDef] = [
                    {"Key": (self.location / name).key} for name in names[begin : begin + _MOST_KEYS]
                ]
                answer = self.client.delete_objects(Bucket=where.bucket, Delete={"Objects": keys, "Quiet": True})
                for refused in answer.get("Errors", ()):
                    raise StorageError(
                        f"{self.location} / {refused.get('Key')} could not be removed: {refused.get('Code')}.",
                        hint="Check the credentials and the bucket's policy.",
                    )

    @override
    def digest(self, name: str) -> str | None:
        from botocore.exceptions import ClientError, FlexibleChecksumError

        where = self.location / name

        def read() -> str:
            found = hashlib.sha256()
            for chunk in self.client.get_object(Bucket=where.bucket, Key=where.key)["Body"].iter_chunks(_CHUNK_BYTES):
                found.update(chunk)
            return found.hexdigest()

        with s3_errors(where, "reading"):
            try:
                return read_whole(read)
            except FlexibleChecksumError:
                return ""
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == "NoSuchKey":
                    return None
                raise

    @override
    def abandon_uploads(self, before: datetime) -> int:
        where, ended = self.location, 0
        with s3_errors(where, "listing uploads to"):
            for page in self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=where.bucket, Prefix=f"{where.key}/".lstrip("/")
            ):
                for upload in page.get("Uploads", ()):
                    if upload["Initiated"] < before:
                        self.client.abort_multipart_upload(
                            Bucket=where.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        ended += 1
        return ended

    @override
    def remove(self, name: str) -> None:
        where = self.location / name
        with s3_errors(where, "removing"):
            self.client.delete_object(Bucket=where.bucket, Key=where.key)

    @override
    def attach(self, prefix: str, stored: str | None, pointer: bytes) -> None:
        self.write(f"{prefix}/{RESULT}", pointer)

    @override
    def _local(self, artifact: Artifact) -> Path:
        path = self.cache / "files" / artifact.sha256 / Path(artifact.uri).name
        hold(path.parent)
        if path.is_file() and sha256_file(path) == artifact.sha256:
            return path
        where = S3Location.parse(artifact.uri)
        with storage_errors(path), s3_errors(where, "reading"):
            make_private_folder(path.parent, self.cache / "files")
            with replacing(path) as file:
                self._download(where, file, artifact)
                file.flush()
                close_to_others(Path(file.name))
                verified(Path(file.name), artifact)
        return path

    def _download(self, where: S3Location, file: BinaryIO, artifact: Artifact) -> None:
        from botocore.exceptions import FlexibleChecksumError

        try:
            self.client.download_fileobj(where.bucket, where.key, file)
        except FlexibleChecksumError as error:
            raise DigestError(
                f"{artifact.uri} was changed: it does not have the checksum that it was stored with.",
                hint="Run the step that made it again.",
            ) from error

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
                # Another process stored the same step's result first: theirs counts.
                if error.response.get("Error", {}).get("Code") not in {"PreconditionFailed", "412"}:
                    raise

    @override
    def _move(self, name: str, file: Path) -> None:
        self.put(name, file)

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
