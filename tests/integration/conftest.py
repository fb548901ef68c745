"""Fixtures of the integration tests: real servers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.local.object_store import ObjectStore, Server
from support.requirements import missing


@dataclass(frozen=True)
class S3Bucket:
    """A bucket of its own for one test, on the running server."""

    client: Any
    bucket: str
    server: Server


@pytest.fixture(scope="session")
def object_store_python(repository: Path) -> Path:
    """Interpreter of the environment that holds ministack."""
    named = os.environ.get("HPE_OBJECT_STORE_PYTHON")
    python = Path(named) if named else repository / ".venv-object-store" / "bin" / "python"
    if not python.is_file():
        missing(f"{python} does not exist: install docker/object-store/requirements.txt there")
    return python


@pytest.fixture(scope="session")
def s3_server(object_store_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The embedded S3 server, on a free port and in a temporary folder."""
    with ObjectStore(tmp_path_factory.mktemp("object-store"), object_store_python) as server:
        yield server


@pytest.fixture(scope="session")
def s3_session_client(s3_server: Server) -> Any:
    return s3_server.client()


@pytest.fixture
def s3_bucket(s3_server: Server, s3_session_client: Any) -> S3Bucket:
    """A new, versioned bucket on the embedded server."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    s3_session_client.create_bucket(Bucket=bucket)
    s3_session_client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return S3Bucket(s3_session_client, bucket, s3_server)
