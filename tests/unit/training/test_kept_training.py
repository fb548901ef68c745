"""A training that was killed on one machine goes on at another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from hpe_tasks.errors import AccessError
from hpe_tasks.storage.workspace import Workspace
from hpe_tasks.training.kept_training import KeptTraining
from hpe_tasks.training.regression import TrainingResult, train_stages
from support.training_factory import top_down
from support.workspaces import new_workspace

PREFIX, STATE, WEIGHTS = "runs/nightly/train.unfinished", "training.state", "checkpoint.safetensors"
STAGES = [top_down(epochs=1, batch_size=4), top_down(epochs=3, batch_size=4, state_every_steps=2)]


class _Killed(Exception):
    """Stands for the end of the machine: of its folder nothing is used again."""


class _Kill(KeptTraining):
    """Dies after a step of the second stage."""

    stages = 0

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        super().begins(settings, network, steps=steps, done=done)
        self.stages += 1

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        super().stepped(step, figures)
        if (self.stages, step) == (2, 5):
            raise _Killed


@pytest.fixture(params=["file", "s3"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    with new_workspace(request.param, tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train_stages(STAGES, dataset, tmp_path_factory.mktemp("whole") / WEIGHTS)


def test_another_machine_goes_on(
    workspace: Workspace, dataset: Path, undisturbed: TrainingResult, tmp_path: Path
) -> None:
    (first := tmp_path / "first").mkdir()
    kept = _Kill(workspace, PREFIX, first, STATE)
    kept.fetch()
    with pytest.raises(_Killed):
        train_stages(STAGES, dataset, first / WEIGHTS, [kept], first / STATE)

    (half := tmp_path / "half").write_bytes(b"what a kill has left of a copy")
    workspace.put(f"{PREFIX}/.{STATE}.0123456789ab", half)
    (second := tmp_path / "second").mkdir()
    going_on = KeptTraining(workspace, PREFIX, second, STATE)
    going_on.fetch()
    assert (second / STATE).is_file()
    assert list(second.glob(".*")) == []
    result = train_stages(STAGES, dataset, second / WEIGHTS, [going_on], second / STATE)
    assert result.losses == undisturbed.losses
    assert (second / WEIGHTS).read_bytes() == undisturbed.checkpoint.read_bytes()


def test_files_of_any_size_are_copied_and_a_missing_one_is_named(workspace: Workspace, tmp_path: Path) -> None:
    (given := tmp_path / "given").write_bytes(b"one")
    workspace.put("a/b", given)
    given.write_bytes(b"two")
    workspace.put("a/b", given)
    workspace.fetch("a/b", tmp_path / "taken")
    assert (tmp_path / "taken").read_bytes() == b"two"
    assert [file.name for file in workspace.files("a")] == ["a/b"]
    with pytest.raises(AccessError, match="a/none"):
        workspace.fetch("a/none", tmp_path / "taken")
