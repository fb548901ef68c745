"""Workspaces of both kinds, empty, and the age of what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from moto import mock_aws
from moto.s3.models import s3_backends

from hpe_tasks.records.base import Artifact
from hpe_tasks.storage.files import path_of
from hpe_tasks.storage.local_workspace import LocalWorkspace
from hpe_tasks.storage.s3 import S3Location, make_client
from hpe_tasks.storage.s3_workspace import S3Workspace
from hpe_tasks.storage.workspace import Workspace

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "work"


@contextmanager
def new_workspace(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A workspace in a folder (`file`), or in a bucket that this process plays (`s3`)."""
    if kind == "file":
        yield LocalWorkspace(folder / "a workspace")
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    with mock_aws():
        client: S3Client = make_client()
        client.create_bucket(Bucket=BUCKET)
        yield S3Workspace(S3Location(BUCKET, "pre/fix"), client, folder / "cache")


def objects() -> dict[str, Any]:
    """The objects of the bucket that this process plays, by their keys."""
    [account] = s3_backends
    found: dict[str, Any] = s3_backends[account]["aws"].buckets[BUCKET].keys
    return found


def spoil(workspace: Workspace, artifact: Artifact) -> None:
    """Change a byte of a stored file; its size stays."""
    if isinstance(workspace, S3Workspace):
        where = S3Location.parse(artifact.uri)
        data = workspace.client.get_object(Bucket=where.bucket, Key=where.key)["Body"].read()
        workspace.client.put_object(Bucket=where.bucket, Key=where.key, Body=b"#" + data[1:])
    else:
        path = path_of(artifact.uri)
        path.write_bytes(b"#" + path.read_bytes()[1:])


def age(workspace: Workspace, days: float) -> None:
    """Let everything in a workspace have been written so many days ago."""
    then = datetime.now(UTC) - timedelta(days=days)
    for file in list(workspace.files("")):
        if isinstance(workspace, S3Workspace):
            objects()[(workspace.location / file.name).key].last_modified = then.replace(tzinfo=None)
        else:
            assert isinstance(workspace, LocalWorkspace)
            os.utime(workspace.root / file.name, (then.timestamp(), then.timestamp()))
