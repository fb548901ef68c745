"""Fixtures of the integration tests: real servers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.local.object_store import ObjectStore, Server
from support.kill_tables import SceneKills, TellKills, machine, write_kills
from support.recoveries import Recoveries, table, write_recoveries


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--recoveries", type=Path, metavar="PAGE", help="Markdown page to keep times to recovery in")
    parser.addoption("--kills", type=Path, metavar="PAGE", help="Markdown page to keep numbers of kills in")


@pytest.fixture(scope="session")
def told_recoveries(request: pytest.FixtureRequest) -> Recoveries:
    """Prints how long faults were felt, and keeps it where `--recoveries` says."""
    page: Path | None = request.config.getoption("--recoveries", default=None)

    def tell(recoveries: Mapping[str, float]) -> None:
        print(f"\n\n{table(recoveries)}")
        if page is not None and recoveries:
            write_recoveries(page, recoveries)

    return tell


@pytest.fixture
def told_kills(request: pytest.FixtureRequest) -> TellKills:
    """Prints how many kills a run was recovered from, and keeps it where `--kills` says."""
    page: Path | None = request.config.getoption("--kills", default=None)

    def tell(kills: SceneKills) -> None:
        if kills.finished:
            print(kills.rows(machine()))
        if page is not None:
            write_kills(page, kills, machine())

    return tell


@dataclass(frozen=True)
class S3Bucket:
    """A bucket of its own for one test, on the running server."""

    client: Any
    bucket: str
    server: Server


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
