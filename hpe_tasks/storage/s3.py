"""S3 addresses, clients and errors: the one place that knows how boto3 fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from hpe_tasks.config.addresses import redacted, redacted_text
from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.errors import AccessError, ConfigError, TransientError
from hpe_tasks.faults import reached
from hpe_tasks.storage.s3_requests import count_requests

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

log = logging.getLogger(__name__)

READ_ATTEMPTS = 4
_PAUSE_S = 0.2


@dataclass(frozen=True)
class S3Location:
    """A bucket and a key or prefix in it, without slashes at either end."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> S3Location:
        """Read `s3://bucket/key`; raises ConfigError for anything else."""
        scheme, separator, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        if scheme != "s3" or not separator or not bucket:
            raise ConfigError(f"{redacted(uri)!r} is not an S3 address.", hint="Write it as s3://bucket/prefix.")
        if "@" in bucket or (":" in bucket and not bucket.startswith("arn:")):
            raise ConfigError(
                "An s3:// address carries a credential before the name of its bucket.",
                hint="Write it as s3://bucket/prefix. Credentials of S3 come from the AWS variables and files; in "
                "Airflow, or from the connection `hpe_s3`.",
            )
        return cls(bucket, key.strip("/"))

    def __truediv__(self, name: str) -> S3Location:
        return S3Location(self.bucket, f"{self.key}/{name}".strip("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")


def make_client(**overrides: Any) -> S3Client:
    """An S3 client from the usual AWS variables and files.

    Args:
        overrides: `endpoint_url`, `aws_access_key_id`, `aws_secret_access_key`, `aws_session_token` or
            `region_name`, as an Airflow connection gives them; a missing one is looked up as boto3 does.

    Raises:
        ConfigError: A setting is malformed, or names a profile that does not exist.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    endpoint = overrides.get("endpoint_url")
    config = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "max_attempts": 4},
        # Servers other than AWS serve buckets as a path of one host name.
        s3={"addressing_style": "path"} if endpoint else None,
    )
    try:
        client = boto3.client("s3", config=config, **{k: v for k, v in overrides.items() if v is not None})
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(
            f"The S3 client cannot be set up: {redacted_text(str(error))}.",
            hint="Check the endpoint, region and profile in the AWS variables or in the Airflow connection `hpe_s3`.",
        ) from None  # It quotes the endpoint.
    count_requests(client)
    return client


def read_whole(read: Callable[[], T]) -> T:
    """What `read` returns, which asks for an object again where the answer breaks off on its way.

    A client repeats a request until its answer begins, and no further.
    """
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    for attempt in range(1, READ_ATTEMPTS):
        try:
            return read()
        except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError) as error:
            log.warning("reading from S3 broke off, and begins again: %s", redacted_text(str(error)))
            time.sleep(attempt * _PAUSE_S)
    return read()


@contextmanager
def s3_errors(location: S3Location, doing: str) -> Iterator[None]:
    """Turn botocore's errors into ours.

    Args:
        location: What the call is about; named in the message.
        doing: The attempt as a verb phrase, such as "reading".

    Raises:
        ConfigError: S3 does not allow the bucket's name.
        AccessError: The credentials are missing or refused, or the bucket or object does not exist.
        TransientError: The endpoint cannot be reached, or the server failed.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
    )

    reached(f"S3: {doing}")
    try:
        try:
            yield
            reached(f"S3: {doing}, done")
        except Boto3Error as error:
            # Managed transfers wrap what went wrong: the first error says which kind it is.
            inner = error.__cause__ or error.__context__
            if isinstance(inner, (ClientError, BotoCoreError)):
                raise inner from error
            raise TransientError(
                f"The transfer failed while {doing} {location}: {redacted_text(str(error))}"
            ) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AccessError(
            f"No AWS credentials for {doing} {location}.",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; in Airflow, or the connection `hpe_s3`. "
            '`eval "$(make env)"` sets those of the embedded server.',
        ) from error
    except ClientError as error:
        code = error_code(error)
        if code == "InvalidBucketName":
            raise _bad_address(location) from error
        if code in {"NoSuchBucket"}:
            raise AccessError(
                f"The bucket {location.bucket!r} does not exist ({doing} {location}).",
                hint="Create it, or correct the address.",
            ) from error
        if code in {"NoSuchKey", "404", "NotFound"}:
            raise AccessError(f"{location} does not exist.", hint="Check the address and the prefix.") from error
        if code in {"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}:
            raise AccessError(
                f"Access was denied while {doing} {location} ({code}).",
                hint="Check the credentials and the bucket's policy.",
            ) from error
        if code in {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}:
            raise ConfigError(
                f"The bucket {location.bucket!r} lies in another region.", hint="Set AWS_DEFAULT_REGION to its region."
            ) from error
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= 500 or code in {"SlowDown", "RequestTimeout", "InternalError"}:
            raise TransientError(f"The S3 server failed while {doing} {location} ({code}).") from error
        raise
    except ParamValidationError as error:
        raise _bad_address(location) from error
    except BotoCoreError as error:
        raise TransientError(
            f"The S3 server could not be reached while {doing} {location}: {redacted_text(str(error)).rstrip('.')}.",
            hint="Check the endpoint and the network; the DAG retries this by itself.",
        ) from error


def _bad_address(location: S3Location) -> ConfigError:
    return ConfigError(
        f"{location} is not a valid S3 address: bucket names have 3 to 63 lower-case letters, digits, '-' and '.'.",
        hint="Correct the address.",
    )
