"""Requests to S3 are counted: by the process that sends them, against what a relay before a real server sees."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpe_tasks.config.loading import load_config
from hpe_tasks.errors import AccessError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import Run, open_run
from hpe_tasks.storage.s3 import make_client
from hpe_tasks.storage.s3_requests import counting_requests
from support.faulty_s3 import FaultyS3, faulty_s3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from .conftest import S3Bucket

pytestmark = pytest.mark.integration

_METHODS = {
    "GetObject": "GET",
    "HeadObject": "HEAD",
    "ListObjectsV2": "GET",
    "PutObject": "PUT",
    "DeleteObject": "DELETE",
}


@pytest.fixture
def relay(s3_bucket: S3Bucket) -> Iterator[FaultyS3]:
    with faulty_s3(f"http://127.0.0.1:{s3_bucket.server.port}") as made:
        yield made


def methods(relay: FaultyS3) -> list[str]:
    """Of each request that has passed, in their order."""
    return [request.split()[0] for request in relay.requests]


@pytest.fixture
def client(s3_bucket: S3Bucket, relay: FaultyS3) -> S3Client:
    keys = {name.lower(): value for name, value in s3_bucket.server.environment.items()}
    return make_client(
        endpoint_url=relay.address,
        aws_access_key_id=keys["aws_access_key_id"],
        aws_secret_access_key=keys["aws_secret_access_key"],
        region_name="us-east-1",
    )


def opened(bucket: str, client: S3Client, cache: Path, **settings: object) -> Run:
    config = load_config("sample", overrides={key.replace("__", "."): value for key, value in settings.items()})
    return open_run(config, workspace=f"s3://{bucket}/work", cache=cache, name="r", s3=lambda: client)


def told(caplog: pytest.LogCaptureFixture, step: str) -> Counter[str]:
    """What the last line about a step's requests says, by method."""
    line = [text for text in caplog.messages if re.match(rf"{step}: \d+ S3 request", text)][-1]
    found = Counter[str]()
    for count, operation in re.findall(r"(\d+) ([A-Z]\w+)(?=[,;)])", line):
        found[_METHODS[operation]] += int(count)
    assert found.total() == int(re.findall(r"(\d+) S3 request", line)[0])
    return found


def test_a_step_tells_how_many_requests_it_took(
    s3_bucket: S3Bucket, relay: FaultyS3, client: S3Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    counts = []
    for worker in ("first", "second"):
        run = opened(s3_bucket.bucket, client, tmp_path / worker)
        relay.requests.clear()
        steps.fetch_checkpoint(run)
        counts.append(told(caplog, "fetch_checkpoint"))
        assert counts[-1] == Counter(methods(relay))
    # What is there already is not stored again.
    assert counts[1]["PUT"] < counts[0]["PUT"]


def test_a_step_that_fails_tells_it_too(
    s3_bucket: S3Bucket, relay: FaultyS3, client: S3Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = opened(s3_bucket.bucket, client, tmp_path, model__checkpoint="/nowhere/w.safetensors")
    relay.requests.clear()
    with pytest.raises(AccessError, match="/nowhere"):
        steps.fetch_checkpoint(run)
    assert told(caplog, "fetch_checkpoint") == Counter(methods(relay))


def test_what_is_sent_again_is_counted_and_told(s3_bucket: S3Bucket, relay: FaultyS3, client: S3Client) -> None:
    with relay.fault(".", "refuse", times=2), counting_requests() as requests:
        client.put_object(Bucket=s3_bucket.bucket, Key="a", Body=b"1")
    assert str(requests) == "3 S3 requests (3 PutObject; 2 of them again after a failure)"
    assert methods(relay) == ["PUT"] * 3


def test_threads_are_counted_and_what_lies_outside_is_not(
    s3_bucket: S3Bucket, relay: FaultyS3, client: S3Client, tmp_path: Path
) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(9 * 2**20))
    client.list_objects_v2(Bucket=s3_bucket.bucket)
    with counting_requests() as outer:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: client.put_object(Bucket=s3_bucket.bucket, Key=f"{i}", Body=b""), range(20)))
        with counting_requests() as inner:
            client.upload_file(str(file), s3_bucket.bucket, "large")  # in parts, by threads of boto3's own
    assert inner.attempts == {"CreateMultipartUpload": 1, "UploadPart": 2, "CompleteMultipartUpload": 1}
    assert outer.total == len(relay.requests) - 1 == 24
    assert outer.repeated == 0
