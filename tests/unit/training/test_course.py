"""How weights change: rates, means of weights, frozen layers, batches in parts, and what ImageNet's weights give."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18

from hpe_tasks.data.coco import load_coco
from hpe_tasks.errors import ConfigError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_common_layers
from hpe_tasks.training import stage as stages
from hpe_tasks.training.course import Course
from hpe_tasks.training.loading import LoadedBatch, batches, training_examples
from hpe_tasks.training.optimizing import MeanWeights, rate
from hpe_tasks.training.regression import train
from hpe_tasks.training.starting import initial_model
from support.training_factory import metadata, top_down

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch(dataset: Path) -> LoadedBatch:
    examples = training_examples(load_coco(dataset, "train"), top_down(batch_size=8))
    _, first = next(iter(batches(examples, 0, 0)))
    return first


@pytest.mark.parametrize(
    ("fields", "factors"),
    [
        pytest.param(
            {"epochs": 5, "drop_epochs": (2, 4)}, {0: 1, 19: 1, 20: 0.1, 39: 0.1, 40: 0.01, 49: 0.01}, id="drops"
        ),
        pytest.param(
            {"epochs": 5, "drop_epochs": (3,), "drop_factor": 0.333, "warm_up_epochs": 0.5},
            {0: 0.2, 4: 1, 29: 1, 30: 0.333},
            id="a warm-up before a drop",
        ),
        pytest.param({"epochs": 2}, {0: 1, 1: 1, 10: 0.541, 19: 0.007}, id="cosine"),
        pytest.param(
            {"epochs": 5, "drop_epochs": (3,), "warm_up_epochs": 0.15},
            {0: 0.667, 1: 1, 2: 1},
            id="a warm-up of 1.5 steps",
        ),
    ],
)
def test_the_learning_rate_follows_its_schedule(fields: dict[str, Any], factors: dict[int, float]) -> None:
    config = top_down(**fields)
    assert {step: rate(step, 10, config) for step in factors} == pytest.approx(factors, abs=1e-3)


def test_the_mean_of_weights_is_the_mean() -> None:
    layer = nn.Linear(1, 1, bias=False)
    mean = MeanWeights(layer, 0.5)
    expected = layer.weight.item()
    for step in range(1, 40):
        nn.init.constant_(layer.weight, step)
        mean.update(layer)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(next(mean.network.parameters())) == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(38, abs=0.01)


def test_gradients_are_clipped_to_their_norm(batch: LoadedBatch) -> None:
    norms = {}
    for limit in (None, 0.01):
        config = top_down(gradient_clip_norm=limit)
        course = Course(initial_model(config), config, 4, CPU)
        course.train()
        told = course.learn(batch)["gradient_norm"]
        gradients = [parameter.grad for parameter in course.network.parameters() if parameter.grad is not None]
        norms[limit] = told, float(torch.nn.utils.get_total_norm(gradients))
    assert norms[None][0] == norms[0.01][0] == pytest.approx(norms[None][1])
    assert norms[0.01][1] == pytest.approx(0.01, rel=1e-3)


def test_a_frozen_backbone_stays_as_it_is(batch: LoadedBatch) -> None:
    config = top_down(initial_weights="sample", new_head=True, freeze_backbone=True, width_multiplier=0.5)
    course = Course(initial_model(config), config, 4, CPU)
    before = {name: tensor.clone() for name, tensor in course.network.state_dict().items()}
    course.train()
    for _ in range(2):
        course.learn(batch)
        course.update()
    changed = {
        name.split(".")[0]
        for name, tensor in course.network.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {"head", "heatmaps"}


def test_a_batch_in_parts_gives_the_gradients_of_the_whole(
    batch: LoadedBatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where memory does not suffice: an allocation of that size fails, here as in CUDA."""

    class Small(nn.Module):
        """Has no batch norms, whose statistics are those of a part."""

        def __init__(self, most: int) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 17, 4, 4)
            self.most = most

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            maps: torch.Tensor = self.layer(images)
            return maps

    found = {}
    for most in (8, 3):
        torch.manual_seed(0)
        course = Course(Small(most), top_down(), 4, CPU)
        losses = [course.learn(batch)["loss"] for _ in range(2)]
        found[most] = losses[-1], course.network.layer.weight.grad.clone()
    assert found[3][0] == pytest.approx(found[8][0], rel=1e-5)
    assert torch.allclose(found[3][1], found[8][1], rtol=1e-4, atol=1e-6)
    told = [record.message for record in caplog.records if "does not suffice" in record.message]
    assert told == [f"The memory does not suffice: from here on, {size} examples at a time." for size in (4, 2)]
    with pytest.raises(ConfigError, match="for one example"):
        Course(Small(0), top_down(), 4, CPU).learn(batch)


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_the_same_however_many_threads_make_them(dataset: Path, threads: int) -> None:
    split = load_coco(dataset, "train")
    config = top_down(batch_size=3)
    made = list(batches(training_examples(split, config), 1, 1, threads=threads))
    examples = training_examples(split, config)
    plan = examples.plan(1)[1:]
    assert len(made) == len(plan)
    for (indices, loaded), expected in zip(made, plan, strict=True):
        assert (indices == expected).all()
        assert np.array_equal(loaded.images.numpy(), examples.batch(1, expected).images)


def test_float16_needs_a_gpu(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        train(top_down(float16=True), dataset, tmp_path / "w.safetensors")


def test_a_resnet_starts_from_torchvisions_weights(tmp_path: Path) -> None:
    classifier = resnet18(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    config = top_down(architecture="pose_resnet_18")
    model = build_model(config.model_config_for("unused"))
    told = load_common_layers(model, tmp_path / "resnet18.pth")
    assert str(told) == (
        "120 weights taken (conv1, bn1, layer1, layer2, layer3, layer4); at random: deconv_layers, final_layer; "
        "not used of the file: fc"
    )
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in classifier.state_dict().items() if "fc" not in name)


def test_a_training_stops_early_with_its_best_weights(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    figures = iter([0.1, 0.3, 0.2, 0.3])
    seen = []

    def measured(network: nn.Module, *_: object) -> float:
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return next(figures)

    monkeypatch.setattr(stages, "average_precision", measured)
    config = top_down(epochs=20, early_stop=2, evaluate_every=1, val_split="val", ema_decay=0.5)
    with caplog.at_level(logging.INFO, "hpe_tasks"):
        result = train(config, dataset, tmp_path / "w.safetensors")
    assert (len(result.losses), result.ap) == (4, 0.3)
    assert metadata(result.checkpoint)["epochs"] == 2
    assert "the weights of epoch 2 were the best: AP 0.300" in caplog.text
    weights = load_file(result.checkpoint)
    assert all(torch.equal(weights[name], tensor) for name, tensor in seen[1].items())
    assert not all(torch.equal(weights[name], tensor) for name, tensor in seen[3].items())
