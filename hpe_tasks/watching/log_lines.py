"""Lines that the function has logged, from wherever its log is kept, one by one.

A folder or a file of lines; the objects below an S3 prefix, as CloudWatch's export to S3 and a subscription by Firehose
write them; or a log group of CloudWatch itself. Files may be packed by gzip.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from hpe_tasks.config.addresses import redacted
from hpe_tasks.errors import AccessError, ConfigError, TransientError
from hpe_tasks.storage.files import path_of
from hpe_tasks.storage.s3 import S3Location, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_GZIP = b"\x1f\x8b"
_LONGEST_LINE = 2**26
"""Bytes. CloudWatch takes no event of more than a megabyte, but Firehose joins many."""

_EXPORT_DELAY = timedelta(days=1)
"""An object may be younger than its lines, never older: those that were written before the period have none of it. A
clock may be wrong by as much."""

LOG_GROUP = "logs://"
"""Begins the address of a log group: `logs:///aws/lambda/pose`."""

_PATTERN = '"invocation"'
"""What CloudWatch looks for, to send no other lines."""


def read_lines(
    address: str,
    *,
    since: datetime | None,
    until: datetime | None,
    s3: Callable[[], S3Client],
    logs: Callable[[], Any] | None = None,
) -> Iterator[dict[str, Any] | None]:
    """The lines of invocations that an address holds, in no order; None for each that is not whole.

    Args:
        address: A path or `file://` of a file or folder, `s3://bucket/prefix`, or `logs://` and a log group.
        since: What was logged before is left out where the address can tell; it may come all the same.
        until: The same of what was logged from then on.
        s3: Makes the S3 client, when one is needed.
        logs: Makes the client of CloudWatch Logs; by default from the usual AWS variables and files.

    Raises:
        ConfigError: The address is none of these.
        AccessError: There is nothing at it, or it is denied.
        TransientError: The network failed.
    """
    if address.startswith(LOG_GROUP):
        messages = _from_log_group(address.removeprefix(LOG_GROUP), since, until, logs or _logs_client)
    elif address.startswith("s3://"):
        messages = _from_s3(S3Location.parse(address), s3(), since)
    elif "://" not in address or address.startswith("file://"):
        messages = _from_files(path_of(address) if "://" in address else Path(address).expanduser())
    else:
        raise ConfigError(
            f"{redacted(address)!r} is no place of a log.",
            hint="Give a file or folder, s3://bucket/prefix, or logs:// and the name of a log group.",
        )
    for message in messages:
        yield from _invocations(message)


def _invocations(message: str) -> Iterator[dict[str, Any] | None]:
    """The invocations that a message tells of; what else the function, Lambda or Firehose writes tells of none."""
    if "invocation" not in message:
        return
    # CloudWatch's export has the time before each message; Firehose joins its records without anything between them.
    position, decoder = message.find("{"), json.JSONDecoder()
    while position >= 0:
        try:
            found, end = decoder.raw_decode(message, position)
        except ValueError:
            yield None
            return
        if isinstance(events := found.get("logEvents"), list):
            for event in events:
                if isinstance(event, dict) and isinstance(event.get("message"), str):
                    yield from _invocations(event["message"])
        elif found.get("message") == "invocation":
            yield found
        position = message.find("{", end)


def _from_files(path: Path) -> Iterator[str]:
    if not path.exists():
        raise AccessError(f"The log {path} does not exist.", hint="Check HPE_WATCH_TELEMETRY or --telemetry.")
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        try:
            with file.open("rb") as stream:
                yield from _messages(stream, str(file))
        except OSError as error:
            raise AccessError(
                f"The log {file} cannot be read: {error.strerror or error}.", hint="Check it and its rights."
            ) from error


def _from_s3(prefix: S3Location, client: S3Client, since: datetime | None) -> Iterator[str]:
    oldest = None if since is None else since - _EXPORT_DELAY
    below = f"{prefix.key}/" if prefix.key else ""
    with s3_errors(prefix, "listing"):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=below)
        listed = [entry for page in pages for entry in page.get("Contents", ())]
    if not listed:
        raise AccessError(f"There are no objects below {prefix}/.", hint="Check the address of the exported log.")
    for entry in sorted(listed, key=lambda entry: entry["Key"]):
        if oldest is not None and entry["LastModified"] < oldest:
            continue
        where = S3Location(prefix.bucket, entry["Key"])
        with s3_errors(where, "reading"):
            body = client.get_object(Bucket=where.bucket, Key=where.key)["Body"].read()
        yield from _messages(io.BytesIO(body), str(where))


def _messages(stream: IO[bytes], name: str) -> Iterator[str]:
    """Lines of a file, packed or not; raises AccessError where it is broken."""
    start = stream.read(2)
    stream.seek(0)
    try:
        unpacked = gzip.GzipFile(fileobj=stream) if start == _GZIP else stream
        while line := unpacked.readline(_LONGEST_LINE):
            yield line.decode("utf-8", errors="replace")
    except (EOFError, gzip.BadGzipFile) as error:
        raise AccessError(f"The log {name} is cut off or broken: {error}.", hint="Export it again.") from error


def _from_log_group(
    name: str, since: datetime | None, until: datetime | None, logs: Callable[[], Any]
) -> Iterator[str]:
    asked: dict[str, Any] = {"logGroupName": name, "filterPattern": _PATTERN}
    if since is not None:
        asked["startTime"] = _milliseconds(since)
    if until is not None:
        asked["endTime"] = _milliseconds(until)
    with _logs_errors(name):
        for page in logs().get_paginator("filter_log_events").paginate(**asked):
            yield from (event["message"] for event in page["events"])


def _milliseconds(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp() * 1000)


def _logs_client() -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    # A log group answers with few events at a time, and throttles who asks much.
    config = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "max_attempts": 8})
    try:
        return boto3.client("logs", config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(
            f"The client of CloudWatch Logs cannot be set up: {redacted(str(error))}.",
            hint="Set AWS_DEFAULT_REGION to the function's region.",
        ) from None


@contextmanager
def _logs_errors(group: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError as error:
        raise AccessError(
            f"No AWS credentials for reading the log group {group}.",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role with logs:FilterLogEvents.",
        ) from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= 500 or code in {"ThrottlingException", "ServiceUnavailableException"}:
            raise TransientError(f"CloudWatch Logs failed while the log group {group} was read ({code}).") from error
        raise AccessError(
            f"The log group {group} cannot be read ({code}).",
            hint="Check its name, the region in AWS_DEFAULT_REGION, and the right logs:FilterLogEvents.",
        ) from error
    except BotoCoreError as error:
        raise TransientError(
            f"CloudWatch Logs could not be reached: {redacted(str(error)).rstrip('.')}.",
            hint="Check the network; the DAG retries this by itself.",
        ) from error
