"""The function's S3 client, and its failures in our words; boto3 is imported when it is needed first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.errors import AccessError, DigestError, TransientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CONNECT_TIMEOUT_S = 2
# With these attempts a server that accepts but never answers is given up within an invocation.
_READ_TIMEOUT_S = 5
_ATTEMPTS = 3
_RENEWAL_READ_TIMEOUT_S = 3

_MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "404", "NotFound"})
_DENIED = frozenset({"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})


@cache
def s3_client(*, renewal: bool = False) -> S3Client:
    """A client of this process: endpoint, region and credentials from the usual AWS variables.

    It gives up sooner than boto3 does by itself, because a caller waits for the function's answer; at once with
    `renewal`, for what can be tried again later.
    """
    import boto3
    from botocore.config import Config

    elsewhere = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_RENEWAL_READ_TIMEOUT_S if renewal else _READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 1 if renewal else _ATTEMPTS},
        # Servers other than AWS serve buckets as a path of one host name.
        s3={"addressing_style": "path"} if elsewhere else None,
    )
    # The default session is not to be used by two threads at once, and a renewal has its own.
    return boto3.session.Session().client("s3", config=config)


@contextmanager
def s3_errors(address: str) -> Iterator[None]:
    """Turn boto3's errors about reading an object into ours.

    Raises:
        AccessError: The object or its bucket does not exist, or the function's role may not read it.
        DigestError: The content differs from the checksum that S3 keeps for it.
        TransientError: S3 cannot be reached, or failed.
    """
    from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise AccessError(
            f"There are no AWS credentials to read {address}.", hint="Give the function a role."
        ) from error
    except FlexibleChecksumError as error:
        raise DigestError(f"{address} is corrupt: {error}", hint="Publish the model again.") from error
    except ClientError as error:
        code = error_code(error)
        if code in _MISSING:
            raise AccessError(
                f"{address} does not exist.", hint="Check HPE_REGISTRY, HPE_MODEL, and HPE_CHANNEL or HPE_VERSION."
            ) from error
        if code in _DENIED:
            raise AccessError(
                f"The function may not read {address}, or it does not exist ({code}).",
                hint="Check the settings, and that its role allows s3:GetObject below the registry's prefix.",
            ) from error
        raise TransientError(f"S3 failed while reading {address} ({code}).") from error
    except BotoCoreError as error:
        raise TransientError(f"S3 could not be reached while reading {address}: {error}") from error
