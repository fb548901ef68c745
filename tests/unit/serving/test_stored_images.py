"""Images that a request names by their address in S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws

from hpe_tasks.serving.errors import RequestError
from hpe_tasks.serving.s3 import s3_client
from hpe_tasks.serving.stored_images import is_allowed, read_stored_image
from support.serving_cases import ask, base64_of, encoded, photo, tiny_service

PREFIXES = ("s3://inbox/photos", "s3://whole-bucket")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in {"ACCESS_KEY_ID": "t", "SECRET_ACCESS_KEY": "t", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    s3_client.cache_clear()
    with mock_aws():
        client = boto3.client("s3")
        client.create_bucket(Bucket="inbox")
        client.put_object(Bucket="inbox", Key="photos/2026/a b+c%20.jpg", Body=b"picture")
        client.put_object(Bucket="inbox", Key="photos-private/a.jpg", Body=b"secret")
        yield
    s3_client.cache_clear()


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("s3://inbox/photos/a.jpg", True),
        ("s3://inbox/photos/2026/11/a.jpg", True),
        ("s3://whole-bucket/a.jpg", True),
        ("s3://inbox/photos", False),
        ("s3://inbox/photos/", False),
        ("s3://inbox/photos-evil/a.jpg", False),
        ("s3://inbox/photos.jpg", False),
        ("s3://inbox/Photos/a.jpg", False),
        ("s3://inbox/photos/../private/a.jpg", False),
        ("s3://inbox/photos/./a.jpg", False),
        ("s3://inbox/photos//a.jpg", False),
        ("s3://inbox//photos/a.jpg", False),
        ("s3://inbox/private/../photos/a.jpg", False),
        ("s3://whole-bucket-2/a.jpg", False),
        ("s3://whole-bucket", False),
        ("s3://whole-bucket/", False),
        ("s3://other/photos/a.jpg", False),
        ("s3:///photos/a.jpg", False),
        ("S3://inbox/photos/a.jpg", False),
        ("https://inbox/photos/a.jpg", False),
        ("s3://inbox/photos/a\x00.jpg", False),
        ("s3://inbox/photos/a\n.jpg", False),
        ("s3://inbox/photos/\ud800.jpg", False),
        ("s3://inbox/photos/" + "a" * 2000, False),
    ],
)
def test_prefixes_match_whole_segments(address: str, allowed: bool) -> None:
    assert is_allowed(address, PREFIXES) is allowed


def test_nothing_is_allowed_without_prefixes() -> None:
    assert not is_allowed("s3://inbox/photos/a.jpg", ())


@pytest.mark.usefixtures("store")
def test_an_allowed_object_is_read() -> None:
    assert read_stored_image("s3://inbox/photos/2026/a b+c%20.jpg", PREFIXES, 7) == b"picture"


@pytest.mark.usefixtures("store")
def test_an_image_in_the_store_may_be_larger_than_one_in_a_request(tmp_path: Path) -> None:
    data = encoded(photo())
    s3_client().put_object(Bucket="inbox", Key="photos/a.jpg", Body=data)
    event = {"image": "s3://inbox/photos/a.jpg"}
    prefix, less = PREFIXES[0], str(len(data) - 1)
    service = tiny_service(tmp_path, IMAGE_PREFIXES=prefix, MAX_IMAGE_BYTES=less)
    assert ask(service, event)[0] == 200
    assert ask(service, {"image": base64_of(data)})[0] == 413
    service = tiny_service(tmp_path, IMAGE_PREFIXES=prefix, MAX_STORED_IMAGE_BYTES=less)
    assert ask(service, event)[0] == 413
    assert ask(service, {"image": base64_of(data)})[0] == 200


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("address", "limit", "status"),
    [
        pytest.param("s3://inbox/photos-private/a.jpg", 100, 422, id="not allowed"),
        pytest.param("s3://inbox/photos/missing.jpg", 100, 422, id="no object"),
        pytest.param("s3://whole-bucket/a.jpg", 100, 422, id="no bucket"),
        pytest.param("s3://inbox/photos/2026/a b+c%20.jpg", 6, 413, id="too large"),
    ],
)
def test_an_object_that_cannot_be_used(address: str, limit: int, status: int) -> None:
    with pytest.raises(RequestError) as refused:
        read_stored_image(address, PREFIXES, limit)
    assert refused.value.status == status
    assert "a.jpg" not in refused.value.message


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "trouble",
    [
        EndpointConnectionError(endpoint_url="https://s3"),
        ClientError({"Error": {"Code": "SlowDown", "Message": "Reduce your request rate."}}, "GetObject"),
    ],
    ids=["no connection", "throttled"],
)
def test_trouble_of_the_store_is_not_blamed_on_the_sender(monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    def fail(**_: object) -> None:
        raise trouble

    monkeypatch.setattr(s3_client(), "get_object", fail)
    with pytest.raises(type(trouble)):
        read_stored_image("s3://inbox/photos/a.jpg", PREFIXES, 100)
