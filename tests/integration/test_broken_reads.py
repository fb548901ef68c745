"""Answers of S3 that break off on their way: what is read is asked for again, wherever whole objects are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpe_tasks.data.fetch.mirror import mirror_prefix
from hpe_tasks.errors import TransientError
from hpe_tasks.storage.s3 import READ_ATTEMPTS, S3Location, make_client
from hpe_tasks.storage.s3_objects import download, get_bytes
from hpe_tasks.storage.s3_workspace import S3Workspace
from support.faulty_s3 import FaultyS3, faulty_s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from .conftest import S3Bucket

pytestmark = pytest.mark.integration

CONTENT = bytes(range(256)) * 16_384
"""Of several chunks."""
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OBJECT = r"GET /\S*/folder/file\.bin"


@pytest.fixture
def proxy(s3_bucket: S3Bucket) -> Iterator[FaultyS3]:
    s3_bucket.client.put_object(Bucket=s3_bucket.bucket, Key="folder/file.bin", Body=CONTENT)
    with faulty_s3(s3_bucket.server.endpoint) as made:
        yield made


def read(client: S3Client, folder: S3Location, _: Path) -> Any:
    return S3Workspace(folder, client, Path()).read("file.bin")


def digest(client: S3Client, folder: S3Location, _: Path) -> Any:
    return {SHA256: CONTENT}[S3Workspace(folder, client, Path()).digest("file.bin") or ""]


def fetch(client: S3Client, folder: S3Location, own: Path) -> Any:
    S3Workspace(folder, client, own).fetch("file.bin", own / "file.bin")
    return (own / "file.bin").read_bytes()


def small(client: S3Client, folder: S3Location, _: Path) -> Any:
    found = get_bytes(client, folder / "file.bin", "reading")
    return found.data if found else None


def downloaded(client: S3Client, folder: S3Location, own: Path) -> Any:
    download(client, folder / "file.bin", own / "file.bin", SHA256)
    return (own / "file.bin").read_bytes()


def mirrored(client: S3Client, folder: S3Location, own: Path) -> Any:
    return (mirror_prefix(folder, client, [["file.bin"]], own) / "file.bin").read_bytes()


WAYS = [read, digest, fetch, small, downloaded, mirrored]


@pytest.mark.parametrize("way", WAYS)
def test_what_breaks_off_is_read_again(
    way: Callable[..., Any], proxy: FaultyS3, s3_bucket: S3Bucket, tmp_path: Path
) -> None:
    client = make_client(**(s3_bucket.server.client_settings | {"endpoint_url": proxy.address}))
    with proxy.fault(OBJECT, "cut", times=READ_ATTEMPTS - 1) as fault:
        assert way(client, S3Location(s3_bucket.bucket, "folder"), tmp_path) == CONTENT
    assert fault.met == READ_ATTEMPTS - 1


def test_what_breaks_off_for_ever_is_told(proxy: FaultyS3, s3_bucket: S3Bucket, tmp_path: Path) -> None:
    client = make_client(**(s3_bucket.server.client_settings | {"endpoint_url": proxy.address}))
    where = S3Location(s3_bucket.bucket, "folder")
    with proxy.fault(OBJECT, "cut", times=100) as fault, pytest.raises(TransientError, match="while reading"):
        downloaded(client, where, tmp_path)
    assert fault.met == READ_ATTEMPTS
    assert list(tmp_path.iterdir()) == []
