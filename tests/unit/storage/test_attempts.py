"""Attempts at a step that learn of each other through the workspace."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpe_tasks.errors import SupersededError
from hpe_tasks.storage.claims import begin_attempt, claim_file
from hpe_tasks.storage.local_workspace import LocalWorkspace

STEP = "runs/a/publish"


@pytest.fixture
def workspace(tmp_path: Path) -> LocalWorkspace:
    return LocalWorkspace(tmp_path / "workspace")


def test_only_the_last_attempt_goes_on(workspace: LocalWorkspace) -> None:
    first = begin_attempt(workspace, STEP)
    first()
    second = begin_attempt(workspace, STEP)
    second()
    for _ in range(2):
        with pytest.raises(SupersededError, match=rf"Another attempt at {STEP} has begun"):
            first()
    second()


def test_attempts_at_other_steps_and_in_other_runs_are_none_of_its_business(workspace: LocalWorkspace) -> None:
    mine = begin_attempt(workspace, STEP)
    begin_attempt(workspace, "runs/a/promote")
    begin_attempt(workspace, "runs/b/publish")
    mine()


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(None, id="nothing"),
        pytest.param(b"", id="an empty file"),
        pytest.param(b"{", id="half a file"),
        pytest.param(b'{"used": "runs/a/publish"}', id="what an earlier version of the project wrote"),
    ],
)
def test_without_a_word_of_its_own_an_attempt_does_not_go_on(workspace: LocalWorkspace, left: bytes | None) -> None:
    mine = begin_attempt(workspace, STEP)
    if left is None:
        workspace.remove(claim_file(STEP))
    else:
        workspace.write(claim_file(STEP), left)
    with pytest.raises(SupersededError):
        mine()
