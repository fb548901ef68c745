"""A training that no longer learns stops before the step that would harm its weights, and names the batch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hpe_tasks.data.coco import load_coco
from hpe_tasks.errors import TrainingError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.training.regression import train
from hpe_tasks.training.watching import StepWatch
from support.training_factory import top_down


class Spoils:
    """Spoils the input of one batch, as a broken sensor's image would; batch norms see it before the loss does."""

    def __init__(self, step: int) -> None:
        self._step, self._inputs = step, 0

    def _spoil(self, _: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        self._inputs += 1
        return (inputs[0] * math.nan,) if self._inputs == self._step else inputs

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """StepWatch what goes in."""
        network.register_forward_pre_hook(self._spoil)

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        """Go on."""

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Go on."""

    def ends(self, figures: Mapping[str, float], files: object) -> None:
        """Go on."""


def test_a_loss_that_is_no_number_names_the_batch_and_keeps_the_weights(dataset: Path, tmp_path: Path) -> None:
    config = top_down(batch_size=4, learning_rate=0.004)
    with pytest.raises(TrainingError) as stopped:
        train(config, dataset, tmp_path / "w.safetensors", [Spoils(3)])
    told = str(stopped.value)
    assert "stopped in step 3: its loss is nan, at the learning rate 0.00" in told
    split = load_coco(dataset, "train")
    images, annotations = (
        [int(number) for number in re.search(rf"{kind}: ([\d, ]+)[;.]", told)[1].split(",")]  # type: ignore[index]
        for kind in ("images", "annotations")
    )
    persons = {person.annotation_id: person for person in split.all_persons()}
    assert len(annotations) == 4
    assert {persons[annotation].image_id for annotation in annotations} == set(images)
    assert [path.name for path in tmp_path.iterdir()] == ["w.interim.safetensors"]
    weights = load_file(tmp_path / "w.interim.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    load_checkpoint(build_model(config.model_config_for("w")), tmp_path / "w.interim.safetensors")


def test_a_training_that_diverges_stops(dataset: Path, tmp_path: Path) -> None:
    config = top_down(batch_size=4, learning_rate=1000.0, epochs=30, divergence_factor=5.0)
    with pytest.raises(TrainingError, match=r"5 times that of the first 10 steps|its loss is|norm of its gradients"):
        train(config, dataset, tmp_path / "w.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in load_file(tmp_path / "w.interim.safetensors").values())


FINE = {"loss": 1.0, "gradient_norm": 1.0}


@pytest.mark.parametrize(
    ("scaled", "steps", "reason"),
    [
        pytest.param(False, [FINE] * 30, None, id="fine"),
        pytest.param(False, [FINE, {**FINE, "loss": math.inf}], "its loss is inf", id="loss"),
        pytest.param(False, [FINE, {**FINE, "gradient_norm": math.nan}], "gradients is nan", id="gradients"),
        pytest.param(True, [FINE, {**FINE, "gradient_norm": math.inf}], None, id="scale too large"),
        pytest.param(True, [{**FINE, "gradient_norm": math.inf}] * 26, "gradients is inf", id="no scale is right"),
        pytest.param(False, [FINE] * 10 + [{**FINE, "loss": 101.0}], "over 100 times", id="diverges"),
        pytest.param(False, [FINE] * 9 + [{**FINE, "loss": 101.0}], None, id="too early to tell"),
    ],
)
def test_what_stops_a_training(scaled: bool, steps: list[dict[str, float]], reason: str | None) -> None:
    watch, config = StepWatch(), top_down()
    *before, last = (watch.reason(figures, config, scaled=scaled) for figures in steps)
    assert not any(before)
    assert last is None if reason is None else reason in str(last)
    json.dumps(vars(watch))  # as it is saved
