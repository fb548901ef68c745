"""A bucket that the test's own process plays (moto), empty for each test; import the fixtures that a file uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto import mock_aws


@pytest.fixture(scope="module")
def moto_client() -> Iterator[Any]:
    """One client for all tests of a file: making one takes far longer than using it."""
    with mock_aws():
        yield boto3.client("s3", region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing")


@pytest.fixture
def client(moto_client: Any) -> Iterator[Any]:
    """The client, with an empty bucket `models`."""
    with models_bucket(moto_client):
        yield moto_client


@contextmanager
def models_bucket(moto_client: Any) -> Iterator[None]:
    """The bucket `models`, until the end of the block."""
    moto_client.create_bucket(Bucket="models")
    yield
    for entry in moto_client.list_objects_v2(Bucket="models").get("Contents", ()):
        moto_client.delete_object(Bucket="models", Key=entry["Key"])
    moto_client.delete_bucket(Bucket="models")
