"""Whole objects in S3, with their SHA-256 checked on the way there and on the way back."""

from __future__ import annotations

import base64
import hashlib
import os
import time
import uuid
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from botocore.exceptions import ClientError, FlexibleChecksumError

from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.errors import AccessError, DigestError, StorageError, TransientError
from hpe_tasks.storage.s3 import S3Location, read_whole, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

_CHUNK_BYTES = 1024 * 1024

# PutObject takes no more; a model for Lambda is some thousand times smaller, so there is no multipart upload here.
_LARGEST_PUT_BYTES = 5 * 1024**3

_PRECONDITION_FAILED = {"PreconditionFailed", "412"}
_CONFLICT_UNDER_WAY = {"ConditionalRequestConflict", "409"}
"""AWS answers this while another conditional write to the same key is under way: nothing was decided yet."""

WRITE_ATTEMPTS = 5
_PAUSE_S = 0.2

_WRONG_CHECKSUM = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}


class _Condition(TypedDict, total=False):
    IfMatch: str
    IfNoneMatch: str


@dataclass(frozen=True)
class StoredBytes:
    """A small object's content; the ETag is quoted, as S3 wants it back."""

    data: bytes
    etag: str


def s3_checksum(sha256: str) -> str:
    """A hexadecimal SHA-256 as S3 writes it: base64."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def get_bytes(
    client: S3Client, location: S3Location, doing: str, *, limit_bytes: int | None = None
) -> StoredBytes | None:
    """Read a small object whole; None when there is none under this key.

    Args:
        client: Reads it.
        location: Where it lies.
        doing: What is done with it, for errors.
        limit_bytes: The most that what is read can have: whoever may write to the bucket may put anything there.

    Raises:
        DigestError: The bytes differ from the checksum that the server keeps for them, or are more than the limit.
    """

    def read() -> tuple[GetObjectOutputTypeDef, bytes]:
        response = client.get_object(Bucket=location.bucket, Key=location.key, ChecksumMode="ENABLED")
        with closing(response["Body"]) as body:
            if limit_bytes is not None and response["ContentLength"] > limit_bytes:
                raise _too_large(location, response["ContentLength"])
            return response, body.read()

    with s3_errors(location, doing):
        try:
            response, data = read_whole(read)
        except ClientError as error:
            if error_code(error) == "NoSuchKey":
                return None
            raise
        except FlexibleChecksumError as error:
            raise _corrupt(location) from error
    promised = response.get("ChecksumSHA256")
    if promised is not None and promised != s3_checksum(hashlib.sha256(data).hexdigest()):
        raise _corrupt(location)
    return StoredBytes(data, response["ETag"])


def put_new_bytes(client: S3Client, location: S3Location, data: bytes, doing: str) -> bool:
    """Create an object that must not exist yet; False, and nothing written, when it does."""
    for attempt in range(WRITE_ATTEMPTS):
        time.sleep(attempt * _PAUSE_S)
        outcome = put_on_condition(client, location, data, doing, etag=None)
        if outcome != "under_way":
            return outcome == "written"
    raise TransientError(f"{location} is being written by others all the time.", hint="Try again in a minute.")


def put_on_condition(
    client: S3Client, location: S3Location, data: bytes, doing: str, *, etag: str | None
) -> Literal["written", "refused", "under_way"]:
    """Try once to write a small object in place of the content with this ETag, or of none.

    Returns:
        `under_way` when another conditional write to the key is not decided yet.

    Raises:
        AccessError: The server offers no conditional writes.
    """
    condition: _Condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
    with s3_errors(location, doing):
        try:
            client.put_object(
                Bucket=location.bucket,
                Key=location.key,
                Body=data,
                ChecksumSHA256=s3_checksum(hashlib.sha256(data).hexdigest()),
                ContentType="application/json",
                **condition,
            )
        except ClientError as error:
            code = error_code(error)
            if code in _CONFLICT_UNDER_WAY:
                return "under_way"
            if code in _PRECONDITION_FAILED:
                return "refused"
            if code == "NoSuchKey" and etag is not None:  # what was to be replaced was deleted meanwhile
                return "refused"
            if code == "NotImplemented":
                raise no_conditional_writes(location) from error
            raise
    return "written"


def put_bytes(client: S3Client, location: S3Location, data: bytes, doing: str) -> None:
    """Write a small object, in place of the one that may be there."""
    with s3_errors(location, doing):
        client.put_object(
            Bucket=location.bucket,
            Key=location.key,
            Body=data,
            ChecksumSHA256=s3_checksum(hashlib.sha256(data).hexdigest()),
        )


def no_conditional_writes(location: S3Location) -> AccessError:
    """The error for a server on which two publishers would overwrite each other."""
    return AccessError(
        f"The S3 server of {location} does not offer conditional writes.",
        hint="Use one that has If-Match and If-None-Match for PutObject, as AWS does.",
    )


def list_keys(client: S3Client, prefix: S3Location) -> dict[str, datetime]:
    """Keys below a prefix, relative to it, with the time of their last change."""
    root = f"{prefix.key}/"
    with s3_errors(prefix, "listing"):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=root)
        return {
            entry["Key"].removeprefix(root): entry["LastModified"]
            for page in pages
            for entry in page.get("Contents", ())
        }


def is_stored(client: S3Client, location: S3Location, sha256: str, size_bytes: int) -> bool:
    """Whether the object is there with this content, by the server's checksum, or by reading it where there is none."""
    with s3_errors(location, "verifying"):
        try:
            head = client.head_object(Bucket=location.bucket, Key=location.key, ChecksumMode="ENABLED")
        except ClientError as error:
            if error_code(error) in {"404", "NoSuchKey", "NotFound"}:
                return False
            raise
    if head["ContentLength"] != size_bytes:
        return False
    # A checksum of the whole object; that of a multipart upload is a checksum of checksums.
    if "ChecksumSHA256" in head and head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        return head["ChecksumSHA256"] == s3_checksum(sha256)
    return _read_through(client, location, Path(os.devnull)) == sha256


def upload(client: S3Client, path: Path, location: S3Location, sha256: str, *, only_new: bool = False) -> bool:
    """Store a file, let the server check its SHA-256 on arrival, and verify what it stored.

    Args:
        client: Writes it.
        path: The file.
        location: Where to.
        sha256: Of the content.
        only_new: Only where there is nothing yet.

    Returns:
        Whether it was stored; False where something was there, or was being written.

    Raises:
        AccessError: `only_new`, and the server offers no conditional writes.
        DigestError: What arrived, or what is stored, is not the content with this digest.
        StorageError: The file is larger than one PutObject may be.
    """
    size = path.stat().st_size
    if size > _LARGEST_PUT_BYTES:
        raise StorageError(f"{path} has {size / 1e9:.1f} GB, more than the 5 GB of one S3 upload.")
    condition: _Condition = {"IfNoneMatch": "*"} if only_new else {}
    with s3_errors(location, "uploading"), path.open("rb") as file:
        try:
            client.put_object(
                Bucket=location.bucket, Key=location.key, Body=file, ChecksumSHA256=s3_checksum(sha256), **condition
            )
        except ClientError as error:
            if only_new and error_code(error) in _PRECONDITION_FAILED | _CONFLICT_UNDER_WAY:
                return False
            if only_new and error_code(error) == "NotImplemented":
                raise no_conditional_writes(location) from error
            if error_code(error) in _WRONG_CHECKSUM:
                raise DigestError(
                    f"{path} did not arrive at {location} as it was: its SHA-256 is not {sha256}.",
                    hint="The file changed while it was uploaded: run the step again.",
                ) from error
            raise
    if not is_stored(client, location, sha256, size):
        raise DigestError(
            f"{location} is not what was uploaded from {path}.", hint="Check the storage of the S3 server, and retry."
        )
    return True


def download(client: S3Client, location: S3Location, destination: Path, sha256: str) -> None:
    """Fetch an object to a file that appears whole and verified, or not at all.

    Raises:
        AccessError: The object is missing.
        DigestError: Its content has another SHA-256.
        StorageError: The file cannot be written here.
    """
    partial = destination.with_name(f".{destination.name}.{uuid.uuid4().hex}.part")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        actual = _read_through(client, location, partial)
        if actual != sha256:
            raise _corrupt(location)
        partial.replace(destination)
    except OSError as error:
        raise StorageError(
            f"{destination} could not be written: {error.strerror or error}.",
            hint="Check the space and the rights there.",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _read_through(client: S3Client, location: S3Location, file: Path) -> str:
    """Write an object's bytes to a file; the SHA-256 of them all."""

    def read() -> str:
        digest = hashlib.sha256()
        body = client.get_object(Bucket=location.bucket, Key=location.key)["Body"]
        with file.open("wb") as out:
            for chunk in body.iter_chunks(_CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
        return digest.hexdigest()

    with s3_errors(location, "reading"):
        try:
            return read_whole(read)
        except FlexibleChecksumError as error:
            raise _corrupt(location) from error


def _too_large(location: S3Location, size_bytes: int) -> DigestError:
    return DigestError(
        f"{location} has {size_bytes:,} bytes, too many for what it should be.",
        hint="Restore the version of that object before, or delete it and publish or promote anew.",
    )


def _corrupt(location: S3Location) -> DigestError:
    return DigestError(
        f"{location} is corrupt: its content does not have the SHA-256 that was recorded for it.",
        hint="Delete that object and publish the model again, or restore the version of the object before.",
    )
