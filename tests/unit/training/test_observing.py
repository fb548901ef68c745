from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import DatasetError
from hpe_tasks.training.regression import train, train_stages
from support.training_factory import top_down


class Diary:
    """Keeps what it is told, and counts what goes through the network."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.seen = 0
        self._lock = threading.Lock()  # cannot be copied, as an open file cannot

    def _sees(self, *_: object) -> None:
        self.seen += 1

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        network.register_forward_hook(self._sees)
        self.told.append(("begins", settings["epochs"], settings["input_width"], steps, done))

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        assert figures["examples_per_s"] > 0
        self.told.append(("stepped", step, figures["loss"], figures["learning_rate"]))

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        self.told.append(("measured", step, dict(figures)))

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        self.told.append(("ends", dict(figures), [file.name for file in files]))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder, SampleSpec(train=8, calibration=1, val=3, width=200, height=150, seed=2))
    return folder


def test_an_observer_is_told_each_stage(dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    diary = Diary()
    first = top_down(epochs=2, learning_rate=0.01, val_split="val", evaluate_every=2)
    second = top_down(epochs=1, learning_rate=0.001, input_width=96)
    with caplog.at_level(logging.INFO, "hpe_tasks"):
        result = train_stages([first, second], dataset, tmp_path / "w.safetensors", [diary])
    begins = [told for told in diary.told if told[0] == "begins"]
    steps = begins[1][3]
    assert begins == [("begins", 2, 64, 2 * steps, 0), ("begins", 1, 96, steps, 0)]
    stepped = [told for told in diary.told if told[0] == "stepped"]
    assert [step for _, step, *_ in stepped] == [*range(1, 2 * steps + 1), *range(1, steps + 1)]
    assert stepped[0][3] == pytest.approx(0.01)
    # Of the networks that learn, not of the copies that are measured.
    assert diary.seen == len(stepped)
    measured = [told for told in diary.told if told[0] == "measured"]
    assert [(step, figures["epoch"], "ap" in figures) for _, step, figures in measured] == [
        (steps, 1, False),
        (2 * steps, 2, True),
        (steps, 1, False),
    ]
    assert measured[-1][2]["loss"] == result.losses[-1]
    ends = [told for told in diary.told if told[0] == "ends"]
    assert [files for _, _, files in ends] == [["w.stage1.safetensors"], ["w.safetensors"]]
    assert ends[1][1] == {"epoch": 1, "loss": result.losses[-1]}
    assert f"epoch 2 of 2: loss {measured[1][2]['loss']:.6f}, AP {measured[1][2]['ap']:.3f}" in caplog.text


def test_an_observer_is_told_the_end_that_is_an_error(dataset: Path, tmp_path: Path) -> None:
    class Weary(Diary):
        def stepped(self, step: int, figures: Mapping[str, float]) -> None:
            super().stepped(step, figures)
            if step == 2:
                raise DatasetError("An image is gone.")

    diary = Weary()
    with pytest.raises(DatasetError, match="is gone"):
        train(top_down(state_every_steps=1), dataset, tmp_path / "w.safetensors", [diary])
    assert diary.told[-1] == ("ends", {}, ["w.state"])
