"""A training that is killed goes on, and ends with the bytes that it would have written undisturbed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import CheckpointError, ConfigError, DatasetError
from hpe_tasks.training.regression import train, train_stages
from support.training_factory import bottom_up, top_down

TRAINING = """
import json, sys
from pathlib import Path
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.training.regression import train_stages

class Told:
    def begins(self, settings, network, *, steps, done):
        print("begins", done, flush=True)
    def stepped(self, step, figures):
        print("stepped", step, flush=True)
    def measured(self, step, figures):
        print("measured", step, flush=True)
    def ends(self, figures, files):
        print("ends", flush=True)

root, out, stages = sys.argv[1:]
stages = [TrainingConfig.model_validate(stage) for stage in json.loads(stages)]
train_stages(stages, Path(root), Path(out), [Told()])
"""

KILLS = 5
ATTEMPTS = 30


def killed(
    stages: Sequence[TrainingConfig], root: Path, out: Path, at: Callable[[list[str]], bool], *, wait_s: float = 0.0
) -> tuple[list[str], bool]:
    """Train in another process, and kill it when what it told is as it should be.

    Returns:
        What it told, and whether the kill met it: it may have ended by itself before.
    """
    settings = json.dumps([stage.model_dump(mode="json") for stage in stages])
    command = [sys.executable, "-c", TRAINING, str(root), str(out), settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line.strip())
            if at(told):
                time.sleep(wait_s)
                process.kill()
                break
        process.wait()
    assert process.returncode in (-signal.SIGKILL, 0), told
    return told, process.returncode == -signal.SIGKILL


def test_a_killed_training_ends_as_an_undisturbed_one(dataset: Path, tmp_path: Path) -> None:
    """Killed in the second stage, in the middle of an epoch, with nothing left out that a step depends on."""
    fields: dict[str, Any] = {"batch_size": 4, "learning_rate": 0.01, "ema_decay": 0.9, "gradient_clip_norm": 1.0}
    stages = [
        top_down(epochs=1, **fields),
        top_down(epochs=3, drop_epochs=(1,), warm_up_epochs=0.5, state_every_steps=2, **fields),
    ]
    whole = train_stages(stages, dataset, tmp_path / "whole" / "w.safetensors")

    out = tmp_path / "killed" / "w.safetensors"
    told, met = killed(stages, dataset, out, lambda told: "stepped 5" in told[_last_stage(told) :] and len(told) > 9)
    assert met
    assert not out.exists()
    assert {path.name for path in out.parent.iterdir()} == {"w.stage1.safetensors", "w.state"}
    # What the state holds suffices: weights of the stage before may be gone.
    (out.parent / "w.stage1.safetensors").unlink()
    done = train_stages(stages, dataset, out)
    assert "begins 0" in told
    assert done.losses == whole.losses
    assert done.seconds > 0
    assert out.read_bytes() == whole.checkpoint.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["w.safetensors"]


def _last_stage(told: list[str]) -> int:
    return max(index for index, line in enumerate(told) if line.startswith("begins"))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("config", "lines"), [(top_down, 8), (bottom_up, 4)])
def test_five_kills_at_random_change_nothing(
    dataset: Path, tmp_path: Path, config: Callable[..., TrainingConfig], lines: int
) -> None:
    """Each after so many lines at most: the whole training tells few enough that five must fit into it."""
    fields: dict[str, Any] = {"batch_size": 3, "learning_rate": 0.003, "ema_decay": 0.95, "val_split": "val"}
    if config is bottom_up:
        fields["val_split"] = None
    first = config(epochs=2, state_every_s=0.2, **fields)
    stages = [first, config(epochs=3, state_every_steps=3, evaluate_every=1, input_width=96, **fields)]
    whole = train_stages(stages, dataset, tmp_path / "whole" / "w.safetensors")

    rng = random.Random(8)
    out = tmp_path / "killed" / "w.safetensors"
    kills = 0
    for _ in range(ATTEMPTS):
        enough = partial(_has_told, rng.randint(1, lines))
        _, met = killed(stages, dataset, out, enough, wait_s=rng.uniform(0, 0.05))
        kills += met
        if kills == KILLS:
            break
        if not met:
            # It was faster: the same bytes, and another training that is to be killed five times.
            assert out.read_bytes() == whole.checkpoint.read_bytes()
            out.unlink()
            kills = 0
    assert kills == KILLS
    done = train_stages(stages, dataset, out)
    assert (done.losses, done.ap) == (whole.losses, whole.ap)
    assert out.read_bytes() == whole.checkpoint.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["w.safetensors"]


def _has_told(lines: int, told: list[str]) -> bool:
    return len(told) >= lines


class _Stop(Exception):
    """Ends a training that has saved its state."""


class _Stops:
    def begins(self, *_: object, **__: object) -> None:
        """Go on."""

    def stepped(self, step: int, _: object) -> None:
        if step == 2:
            raise _Stop

    def measured(self, *_: object) -> None:
        """Go on."""

    def ends(self, *_: object) -> None:
        """Go on."""


@pytest.fixture(scope="module")
def stopped(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "w.safetensors"
    with pytest.raises(_Stop):
        train(top_down(state_every_steps=1, batch_size=4), dataset, out, [_Stops()])
    return out.with_suffix(".state")


@pytest.mark.parametrize(
    ("fields", "error", "names"),
    [
        pytest.param({"epochs": 3, "seed": 4}, ConfigError, r"epochs 2 \(now 3\), seed 0 \(now 4\)", id="settings"),
        pytest.param({"initial_weights": "sample"}, ConfigError, "initial_weights None", id="weights"),
        pytest.param("stages", ConfigError, r"1 stages \(now 2\)", id="stages"),
        pytest.param("data", DatasetError, "another data set", id="data set"),
        pytest.param("cut", CheckpointError, r"w\.state is no training's state", id="cut off"),
        pytest.param("other", CheckpointError, r"w\.state is no training's state", id="another file"),
    ],
)
def test_a_state_of_another_training_is_refused(
    dataset: Path, stopped: Path, tmp_path: Path, fields: Any, error: type[Exception], names: str
) -> None:
    state, root = tmp_path / "w.state", dataset
    shutil.copy(stopped, state)
    config = top_down(state_every_steps=1, batch_size=4, **(fields if isinstance(fields, dict) else {}))
    stages = [config, config] if fields == "stages" else [config]
    if fields == "data":
        root = tmp_path / "data"
        make_sample(root, SampleSpec(train=7, calibration=1, val=2, width=200, height=150, seed=2))
    elif fields == "cut":
        state.write_bytes(stopped.read_bytes()[:1000])
    elif fields == "other":
        torch.save({"weight": torch.zeros(1)}, state)
    before = state.read_bytes()
    with pytest.raises(error, match=names) as refused:
        train_stages(stages, root, tmp_path / "out" / "w.safetensors", state=state)
    assert "remove the file to begin anew" in str(refused.value)
    assert state.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_what_does_not_matter_may_change(dataset: Path, stopped: Path, tmp_path: Path) -> None:
    state = tmp_path / "elsewhere" / "kept"
    state.parent.mkdir()
    shutil.copy(stopped, state)
    config = top_down(state_every_s=5, cache_mb=0, loading_threads=3, batch_size=4)
    result = train(config, dataset, tmp_path / "w.safetensors", state=state)
    whole = train(top_down(batch_size=4), dataset, tmp_path / "whole.safetensors")
    assert result.losses == whole.losses
    assert not state.exists()
