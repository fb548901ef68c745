"""Fixtures of the tests of two clients."""

from __future__ import annotations

import pytest

from hpe_tasks.registry import channels
from hpe_tasks.storage import s3_objects
from support.registry_bench import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A registry of three versions; each pair of clients restores it."""
    return Bench(tmp_path_factory.mktemp("versions"))


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a while meets nobody else here."""
    monkeypatch.setattr(channels, "_PAUSE_S", 0)
    monkeypatch.setattr(s3_objects, "_PAUSE_S", 0)
