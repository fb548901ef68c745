"""Several devices share each batch; here they are processes on the CPU."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import ConfigError, TrainingError
from hpe_tasks.training.devices import Rank
from hpe_tasks.training.loading import part_of
from hpe_tasks.training.regression import TrainingResult, train, train_stages
from support.training_factory import bottom_up, top_down


@pytest.mark.parametrize(("count", "processes"), [(8, 2), (7, 2), (7, 3), (1, 2), (2, 4)])
def test_parts_of_a_batch_make_the_whole(count: int, processes: int) -> None:
    """The mean over the processes of each one's mean, times its share, is the mean over the batch."""
    batch = np.arange(count)
    values = np.random.default_rng(0).normal(size=count)
    parts = [part_of(batch, Rank(number, processes)) for number in range(processes)]
    assert all(len(indices) for indices, _ in parts)
    assert np.mean([values[indices].mean() * share for indices, share in parts]) == pytest.approx(values.mean())


def test_stages_on_different_numbers_of_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="equally many devices"):
        train_stages([top_down(devices=2), top_down()], tmp_path, tmp_path / "w.safetensors")


def _train(config: str, root: Path, out: Path, told: Path) -> None:
    result = train(TrainingConfig.model_validate_json(config), root, out)
    told.write_text(json.dumps([result.losses, result.ap]))


def trained_by_a_daemon(config: TrainingConfig, root: Path, out: Path) -> TrainingResult:
    """Train in a process as Celery's workers are, which may have no children of `multiprocessing`."""
    told = out.with_suffix(".json")
    arguments = config.model_dump_json(), root, out, told
    worker = multiprocessing.get_context("spawn").Process(target=_train, args=arguments, daemon=True)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    losses, ap = json.loads(told.read_text())
    told.unlink()
    return TrainingResult(out, tuple(losses), ap, 0, 0.0)


@pytest.mark.long
def test_two_devices_learn_as_one_does(tmp_path: Path) -> None:
    """A network without batch norms, since these see the part of a batch only: it begins with weights."""
    root = tmp_path / "sample"
    make_sample(root, SampleSpec(train=8, calibration=1, val=2, width=200, height=150, seed=2))
    start = train(bottom_up(epochs=1), root, tmp_path / "start.safetensors").checkpoint
    fields = {"initial_weights": str(start), "epochs": 2, "learning_rate": 1e-3, "loading_threads": 2, "batch_size": 3}
    one = train(bottom_up(**fields), root, tmp_path / "one.safetensors")
    two = trained_by_a_daemon(bottom_up(**fields, devices=2, val_split="val"), root, tmp_path / "two.safetensors")
    assert two.losses == pytest.approx(one.losses, rel=1e-4)
    weights, expected = load_file(two.checkpoint), load_file(one.checkpoint)
    # A gradient near zero may have either sign, and the optimizer's first steps are as long as the learning rate.
    differences = torch.cat([(weights[name] - tensor).abs().flatten() for name, tensor in expected.items()])
    assert differences.median() < 1e-6
    assert differences.max() < 0.01
    assert {path.name for path in tmp_path.glob("two*")} == {"two.safetensors"}


@pytest.mark.long
def test_a_device_that_is_lost_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "sample"
    make_sample(root, SampleSpec(train=2, calibration=1, val=1, width=200, height=150, seed=2))
    monkeypatch.chdir(tmp_path)  # where another hpe_tasks lies
    (tmp_path / "hpe_tasks").mkdir()
    (tmp_path / "hpe_tasks" / "__init__.py").write_text("raise SystemExit('no room')\n")
    with pytest.raises(TrainingError, match=r"device 1 ended with code 1: no room"):
        train(top_down(devices=2, batch_size=2), root, tmp_path / "w.safetensors")
