"""The bucket in memory answers what the embedded S3 server answers, and the registry works on it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from hpe_tasks.contract.s3_errors import error_code
from hpe_tasks.errors import AccessError, DigestError
from hpe_tasks.local.memory_bucket import MemoryBucket
from hpe_tasks.registry.publishing import ModelRegistry
from hpe_tasks.storage.s3 import S3Location
from hpe_tasks.storage.s3_objects import s3_checksum
from support import sample_records as records

if TYPE_CHECKING:
    from .conftest import S3Bucket

pytestmark = pytest.mark.integration


def checksum(data: bytes) -> str:
    return s3_checksum(hashlib.sha256(data).hexdigest())


def answers(client: Any, bucket: str) -> Iterator[Any]:
    """What a client makes of the requests that a registry sends."""

    def asked(what: str, **arguments: Any) -> Any:
        try:
            return getattr(client, what)(Bucket=bucket, **arguments)
        except ClientError as error:
            return error_code(error)

    yield asked("get_object", Key="a/one")
    yield asked("head_object", Key="a/one")
    first = asked("put_object", Key="a/one", Body=b"one", IfNoneMatch="*", ChecksumSHA256=checksum(b"one"))
    yield first["ETag"]
    yield asked("put_object", Key="a/one", Body=b"two", IfNoneMatch="*")
    yield asked("put_object", Key="a/one", Body=b"two", IfMatch='"0123"')
    second = asked("put_object", Key="a/one", Body=b"two", IfMatch=first["ETag"], ChecksumSHA256=checksum(b"two"))
    yield second["ETag"]
    got = asked("get_object", Key="a/one", ChecksumMode="ENABLED")
    yield got["Body"].read(), got["ETag"], got["ContentLength"], got["ChecksumSHA256"]
    head = asked("head_object", Key="a/one", ChecksumMode="ENABLED")
    yield head["ContentLength"], head["ETag"], head["ChecksumSHA256"]
    asked("put_object", Key="a/b/three & four", Body=b"")
    asked("put_object", Key="c", Body=b"c")
    listed = asked("list_objects_v2", Prefix="a/", Delimiter="/")
    yield [entry["Key"] for entry in listed["Contents"]], [one["Prefix"] for one in listed["CommonPrefixes"]]
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="a/")
    yield [(entry["Key"], entry["Size"], entry["ETag"]) for page in pages for entry in page["Contents"]]
    try:
        client.get_object(Bucket="no-such-bucket", Key="a")
    except ClientError as error:
        yield error_code(error)


def test_it_answers_as_the_embedded_server_does(s3_bucket: S3Bucket) -> None:
    memory = list(answers(MemoryBucket("in-memory").client(), "in-memory"))
    assert memory == list(answers(s3_bucket.client, s3_bucket.bucket))
    assert memory[0] == "NoSuchKey"


def test_a_body_that_is_not_what_its_checksum_says_is_refused() -> None:
    client = MemoryBucket("in-memory").client()
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket="in-memory", Key="a", Body=b"one", ChecksumSHA256=checksum(b"two"))
    assert error_code(caught.value) == "BadDigest"


def test_the_registry_works_on_it(tmp_path: Path) -> None:
    bucket, where = MemoryBucket("in-memory"), S3Location("in-memory", "registry")
    registry = ModelRegistry(bucket.client(), where)
    versions = []
    for content in ("one", "two"):
        files = records.write_files(tmp_path / content, content)
        published = registry.store(records.manifest(files), files, channel="staging")
        registry.promote(published.name, published.version, "staging", published=published)
        versions.append(published.version)
    name = registry.models()[0]
    assert registry.show(name, "staging").version == versions[1]
    assert registry.rollback(name, "staging").version == versions[0]
    assert {one.version for one in registry.versions(name)} == set(versions)
    model = registry.stored(name, versions[1]).manifest.file("model")
    bucket.client().put_object(Bucket=where.bucket, Key=(where / model.blob).key, Body=b"other bytes")
    with pytest.raises(DigestError, match="is damaged or missing"):
        registry.promote(name, versions[1], "staging")
    with pytest.raises(AccessError, match="does not exist"):
        ModelRegistry(bucket.client(), S3Location("another", "registry")).models()
