"""Whether a registry can be published to: tried with an object of its own, not concluded from rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.errors import AccessError
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.s3_objects import (
    get_bytes,
    no_conditional_writes,
    put_new_bytes,
    put_on_condition,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PROBE = "preflight/probe"
"""Key below the registry's prefix that is written and read. It is always the same, and written once: a publisher needs
no right to delete, and nothing piles up."""

_ABSENT = "preflight/absent"
_CONTENT = b"Written by `hpe check` to see whether this registry can be published to. It may be deleted.\n"
_OTHER_ETAG = '"00000000000000000000000000000000"'

_DENIED = {"403", "AccessDenied", "AllAccessDisabled", "MethodNotAllowed"}
_UNKNOWN_KEY = {"401", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}


def check_registry(client: S3Client, registry: S3Location) -> str:
    """Read, write and refuse to overwrite an object below the registry's prefix; returns what was found, in words.

    Raises:
        AccessError: The bucket does not exist, the credentials are missing or refused, a right is missing, or the
            server does not offer conditional writes.
        ConfigError: The bucket's name is not valid, or the bucket lies in another region.
        TransientError: The server cannot be reached, or failed.
    """
    probe = registry / PROBE
    with _refusals(registry, "s3:ListBucket on the bucket and s3:GetObject on the prefix", "cannot be read"):
        # Without the right to list, AWS answers "denied" for an object that does not exist yet.
        get_bytes(client, registry / _ABSENT, "reading")
    with _refusals(registry, "s3:PutObject on the prefix", "is not writable"):
        # A second attempt must be refused; so must the first, where an earlier check has written the object.
        if put_new_bytes(client, probe, _CONTENT, "writing") and put_new_bytes(client, probe, _CONTENT, "writing"):
            raise no_conditional_writes(registry)
        if _overwrites(client, probe):
            raise no_conditional_writes(registry)
    with _refusals(registry, "s3:GetObject on the prefix", "cannot be read"):
        if get_bytes(client, probe, "reading") is None:
            raise AccessError(
                f"{probe} was written, and is not there.", hint="Check the endpoint, and what lies between."
            )
    return f"{registry} can be read and written, and refuses to overwrite"


def _overwrites(client: S3Client, probe: S3Location) -> bool:
    """Whether the server writes although If-Match names other content: it would write what is there already."""
    return put_on_condition(client, probe, _CONTENT, "writing", etag=_OTHER_ETAG) == "written"


@contextmanager
def _refusals(registry: S3Location, rights: str, problem: str) -> Iterator[None]:
    """Name the right that is missing, and what else a server may say that is not an S3 server as we need it."""
    bucket = registry.bucket
    try:
        yield
    except AccessError as error:
        code = error_code(error.__cause__) if isinstance(error.__cause__, ClientError) else ""
        if code in _UNKNOWN_KEY:
            raise AccessError(
                f"The S3 server of {registry} does not know the credentials ({code}).",
                hint="Correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; in Airflow, or the connection `hpe_s3`.",
            ) from error
        if code == "ExpiredToken":
            raise AccessError(
                f"The credentials for {registry} have expired.", hint="Log in again, or use a role that renews them."
            ) from error
        if code in _DENIED:
            raise AccessError(
                f"{registry} {problem} ({code}).", hint=f"Give the account {rights}, and look at the bucket's policy."
            ) from error
        if code == "NoSuchBucket":
            raise AccessError(
                f"The bucket {bucket!r} does not exist.",
                hint=f"Create it (`aws s3 mb s3://{bucket}`), or correct destination.registry. "
                '`eval "$(make env)"` points to the embedded server.',
            ) from error
        raise
    except ClientError as error:
        code = error_code(error)
        if code in _DENIED:
            raise AccessError(
                f"{registry} {problem} ({code}).",
                hint="Is the endpoint that of an S3 server, without a read-only rule?",
            ) from error
        raise AccessError(
            f"{registry} {problem}: the server answered {code or 'something that is not S3'}.",
            hint="Check the endpoint (AWS_ENDPOINT_URL_S3, or `endpoint_url` in the connection `hpe_s3`).",
        ) from error
