"""The probe of a registry against servers that answer as S3 servers do when something is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from moto import mock_aws

from hpe_tasks.errors import AccessError, ConfigError, TransientError
from hpe_tasks.preflight.destination import PROBE, check_registry
from hpe_tasks.storage.s3 import S3Location, make_client
from support.answering_s3 import answering

KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
ABSENT = (404, "NoSuchKey")

REFUSALS = [
    pytest.param(
        (404, "NoSuchBucket"), (404, "NoSuchBucket"), AccessError, "bucket 'models' does not exist", id="bucket"
    ),
    pytest.param(ABSENT, (403, "AccessDenied"), AccessError, r"is not writable.*s3:PutObject", id="read-only"),
    pytest.param(ABSENT, (405, "MethodNotAllowed"), AccessError, "is not writable", id="no writes at all"),
    pytest.param(
        (403, "AccessDenied"), (200, ""), AccessError, r"cannot be read.*s3:ListBucket.*s3:GetObject", id="no list"
    ),
    pytest.param(
        (403, "InvalidAccessKeyId"), ABSENT, AccessError, r"does not know the credentials.*AWS_ACCESS_KEY_ID", id="key"
    ),
    pytest.param((403, "SignatureDoesNotMatch"), ABSENT, AccessError, "does not know the credentials", id="secret"),
    pytest.param((400, "ExpiredToken"), ABSENT, AccessError, "have expired", id="expired"),
    pytest.param(
        (400, "AuthorizationHeaderMalformed"), ABSENT, ConfigError, r"another region.*AWS_DEFAULT_REGION", id="region"
    ),
    pytest.param(ABSENT, (200, ""), AccessError, "does not offer conditional writes", id="ignores conditions"),
    pytest.param(ABSENT, (501, "NotImplemented"), AccessError, "does not offer conditional writes", id="no conditions"),
    pytest.param(
        ABSENT, (400, "InvalidRequest"), AccessError, r"answered InvalidRequest.*endpoint", id="another server"
    ),
    pytest.param(
        (418, "Teapot"), ABSENT, AccessError, r"cannot be read: the server answered Teapot", id="no S3 server"
    ),
]


@pytest.mark.parametrize(("get", "put", "kind", "says"), REFUSALS)
def test_each_refusal_has_its_own_message(
    get: tuple[int, str], put: tuple[int, str], kind: type[Exception], says: str
) -> None:
    with answering(GET=get, PUT=put, HEAD=get) as address, pytest.raises(kind, match=says):
        check_registry(make_client(endpoint_url=address, **KEYS), S3Location("models", "registry"))


def test_a_server_that_keeps_nothing_is_found_out() -> None:
    refused = (412, "PreconditionFailed")
    with answering(GET=ABSENT, PUT=refused) as address, pytest.raises(AccessError, match="and is not there"):
        check_registry(make_client(endpoint_url=address, **KEYS), S3Location("models", "registry"))


def test_a_server_that_fails_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with answering(GET=(503, "SlowDown"), PUT=ABSENT) as address, pytest.raises(TransientError, match="SlowDown"):
        check_registry(make_client(endpoint_url=address, **KEYS), S3Location("models", "registry"))


def test_missing_credentials_are_named() -> None:
    with pytest.raises(AccessError, match=r"No AWS credentials.*make env"):
        check_registry(make_client(region_name="us-east-1"), S3Location("models", "registry"))


@mock_aws
def test_it_writes_one_object_once() -> None:
    client: Any = make_client(**KEYS)
    client.create_bucket(Bucket="models")
    client.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    for _ in range(3):
        assert check_registry(client, S3Location("models", "a/registry")).startswith("s3://models/a/registry can be")
    versions = client.list_object_versions(Bucket="models")["Versions"]
    assert [version["Key"] for version in versions] == [f"a/registry/{PROBE}"]
