"""Fixtures of the unit tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def records(repository: Path) -> ModuleType:
    """Makers of records, manifests and files: the module tests/sample_records.py."""
    spec = importlib.util.spec_from_file_location("sample_records", repository / "tests" / "sample_records.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
