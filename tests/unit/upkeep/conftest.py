from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hpe_tasks.storage.workspace import Workspace
from support.workspaces import new_workspace


@pytest.fixture(params=["file", "s3"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    with new_workspace(request.param, tmp_path, monkeypatch) as made:
        yield made
