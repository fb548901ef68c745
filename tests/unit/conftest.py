"""Fixtures of the unit tests."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(autouse=True)
def no_aws_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide whatever S3 server and credentials this machine, its user or an earlier test has set up.

    moto answers only for addresses of AWS, so a server that the environment names would be asked instead of it.
    """
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # The session that all clients of a process share keeps the credentials it has once found.
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)


@pytest.fixture(scope="session")
def records(repository: Path) -> ModuleType:
    """Makers of records, manifests and files: the module tests/sample_records.py."""
    spec = importlib.util.spec_from_file_location("sample_records", repository / "tests" / "sample_records.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
