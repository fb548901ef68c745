"""Whether what a configuration names is there at all: asked before there is a run, in a moment.

Less than the preflight asks: no more than what a wrong input is to blame for. A storage that cannot be reached, or any
server that is slow or says no to these credentials, is not; the preflight of the worker's machine looks at that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from hpe_tasks.config.addresses import is_web_address, shown_address
from hpe_tasks.config.base import SAMPLE
from hpe_tasks.config.run import RunConfig
from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.data.fetch.absent import absent_file
from hpe_tasks.data.fetch.download import local_path
from hpe_tasks.errors import HpeError
from hpe_tasks.storage.s3 import S3Location

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NOT_THERE = {"404", "NotFound", "NoSuchBucket", "NoSuchKey"}


def missing_places(
    config: RunConfig, given: Collection[str], *, s3: Callable[[], S3Client], files_are_here: Callable[[], bool]
) -> tuple[str, ...]:
    """What is wrong with addresses of a configuration, one sentence for each; nothing where that cannot be told.

    Args:
        config: What a run would be asked.
        given: Keys of the settings that a person gave: what a preset or a default says is not theirs to mend.
        s3: Makes the S3 client, when one is needed.
        files_are_here: Whether this machine is the one that would read a path or an address; asked when there is one.
    """
    found: list[str] = []
    buckets: dict[str, bool] = {}
    client: S3Client | None = None
    for key, address, is_object in _named(config):
        if key not in given:
            continue
        if is_web_address(address):
            problem = _web_problem(config, address, files_are_here) if is_object else None
            found += [] if problem is None else [f"{key}: {problem}"]
            continue
        if not address.startswith("s3://"):
            if not local_path(address).exists() and files_are_here():
                found.append(f"{key}: {shown_address(address)} does not exist. Check the path.")
            continue
        try:
            place = S3Location.parse(address)
            client = client or s3()
        except HpeError:
            continue  # The preflight says what is wrong with address, connection or credentials.
        if place.bucket not in buckets:
            buckets[place.bucket] = _is_there(client, place.bucket)
        if not buckets[place.bucket]:
            found.append(f"{key}: the bucket {place.bucket!r} does not exist. Create it, or correct the address.")
        elif is_object and not _is_there(client, place.bucket, place.key):
            found.append(f"{key}: {shown_address(address)} does not exist. Check the address.")
    return tuple(found)


def _named(config: RunConfig) -> Iterator[tuple[str, str, bool]]:
    """(setting, address, whether it names one object) of what a run reads, and of where it publishes to."""
    if config.model.checkpoint != SAMPLE:
        yield "model.checkpoint", config.model.checkpoint, True
    dataset = config.dataset
    if dataset.source != SAMPLE:
        yield "dataset.source", dataset.source, False
    for address in dataset.image_archives or ():
        yield "dataset.image_archives", address, True
    if dataset.boxes is not None:
        yield "dataset.boxes", dataset.boxes, True
    if dataset.valid_images is not None:
        yield "dataset.valid_images", dataset.valid_images, True
    yield "destination.registry", config.destination.registry, False


def _web_problem(config: RunConfig, address: str, files_are_here: Callable[[], bool]) -> str | None:
    """Why a web server cannot give a file; None where it may, or is none of this machine's to ask."""
    here, private = files_are_here(), config.dataset.allow_private_addresses
    if private and not here:
        return None  # What workers may reach in their network is no leave to ask around in this one.
    return absent_file(address, allow_private_addresses=private, asked_from_here=here)


def _is_there(client: S3Client, bucket: str, key: str = "") -> bool:
    """Whether a bucket, or an object in it, exists; True where the server does not say that it does not."""
    try:
        if key:
            client.head_object(Bucket=bucket, Key=key)
        else:
            client.head_bucket(Bucket=bucket)
    except ClientError as error:
        return error_code(error) not in _NOT_THERE
    except BotoCoreError:
        return True
    return True
