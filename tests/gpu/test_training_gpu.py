"""Training on a GPU: in each precision, killed and going on, in too little memory, and with the device to itself."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.sample import SampleSpec, make_sample
from hpe_tasks.errors import TransientError
from hpe_tasks.inference import fp32_predictor
from hpe_tasks.storage.devices import LOCKS, device_held, device_name
from hpe_tasks.training.regression import train
from support import tiny_networks as tiny
from support.other_process import other_process
from support.training_factory import top_down

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

PRECISIONS: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"bfloat16": True}, "fp16": {"float16": True}}
SIZE = {"input_width": 192, "input_height": 256}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    make_sample(folder, SampleSpec(train=24, calibration=1, val=1, width=320, height=240))
    return folder


@pytest.fixture
def all_memory() -> Iterator[None]:
    """Give back what a test has taken of the GPU's memory."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def on_gpu(**fields: Any) -> TrainingConfig:
    return top_down(**{"device": "cuda", "learning_rate": 3e-3, "batch_size": 8, **fields})


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_lowers_the_loss_and_gives_weights_that_run_anywhere(
    precision: str, people: Path, tmp_path: Path
) -> None:
    config = on_gpu(epochs=12, width_multiplier=0.25, **PRECISIONS[precision])
    found = train(config, people, tmp_path / "w.safetensors")
    assert all(np.isfinite(found.losses))
    assert found.losses[-1] < 0.8 * found.losses[0]
    described = config.model_config_for(str(found.checkpoint))
    images = tiny.smooth_images(2, described)
    on_cpu = fp32_predictor(described, found.checkpoint, "cpu")(images)["heatmaps"]
    np.testing.assert_allclose(
        fp32_predictor(described, found.checkpoint, "cuda")(images)["heatmaps"], on_cpu, atol=1e-3
    )


class Stop(Exception):
    """Ends a training as a kill would, after its state was saved."""


class StopsAt:
    """Stops a training after a step; notes the step that one begins after."""

    def __init__(self, step: int | None) -> None:
        self._step = step
        self.begun: list[int] = []

    def begins(self, settings: Mapping[str, Any], network: nn.Module, *, steps: int, done: int) -> None:
        """Note where it goes on."""
        self.begun.append(done)

    def stepped(self, step: int, figures: Mapping[str, float]) -> None:
        """Stop there."""
        if step == self._step:
            raise Stop

    def measured(self, step: int, figures: Mapping[str, float]) -> None:
        """Go on."""

    def ends(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Go on."""


def test_a_killed_training_in_float16_goes_on_with_its_scale(people: Path, tmp_path: Path) -> None:
    config = on_gpu(epochs=6, state_every_steps=2, **PRECISIONS["fp16"])
    whole = train(config, people, tmp_path / "whole.safetensors")
    out = tmp_path / "killed.safetensors"
    with pytest.raises(Stop):
        train(config, people, out, [StopsAt(7)])
    state = out.with_suffix(".state")
    assert state.exists()
    again = StopsAt(None)
    done = train(config, people, out, [again])
    assert again.begun[0] == 6
    assert not state.exists()
    # Sums on a GPU may come in another order: the losses are alike, not the same to the bit.
    assert done.losses == pytest.approx(whole.losses, rel=0.05)


@pytest.mark.usefixtures("all_memory")
def test_a_batch_that_does_not_fit_is_learnt_in_halves(
    people: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = {"architecture": "pose_resnet_50", "batch_size": 24, "epochs": 1, **SIZE}
    allow(1.5e9)
    with caplog.at_level(logging.WARNING):
        found = train(on_gpu(**large), people, tmp_path / "w.safetensors")
    assert np.isfinite(found.losses[0])
    told = [int(size) for size in re.findall(r"from here on, (\d+) examples at a time", caplog.text)]
    assert told
    assert told[0] == 12


@pytest.mark.usefixtures("all_memory")
def test_a_measurement_that_does_not_fit_is_made_in_halves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ModelConfig(checkpoint="w", architecture="pose_resnet_50", input_width=288, input_height=384)
    predict = fp32_predictor(config, tiny.write_checkpoint(tmp_path / "w.safetensors", config), "cuda")
    images = tiny.smooth_images(128, config)
    whole = predict(images)["heatmaps"]
    torch.cuda.empty_cache()
    allow(torch.cuda.memory_allocated() + 1.0e9)
    with caplog.at_level(logging.WARNING):
        halved = predict(images)["heatmaps"]
    assert "The memory does not suffice: from here on, 64 images at a time." in caplog.text
    np.testing.assert_allclose(halved, whole, atol=1e-4 * float(np.abs(whole).max()))


def allow(size_bytes: float) -> None:
    """Let this process have so much of the GPU's memory."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, size_bytes / total))


HOLDS = """
import os, sys, time
os.environ["HPE_DEVICE_LOCKS"] = sys.argv[1]
from hpe_tasks.storage.devices import device_held
with device_held("cuda"):
    print("ready", flush=True)
    time.sleep(600)
"""


def test_the_gpu_has_one_name_however_it_is_shown_and_one_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOCKS, str(tmp_path / "locks"))
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    by_number = device_name("cuda")
    assert by_number == f"cuda-{uuid}"
    with other_process(HOLDS, tmp_path / "locks") as orphan:
        # Its retry is shown the same GPU by its identity.
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", uuid)
        assert device_name("cuda") == by_number
        with (
            pytest.raises(TransientError, match=rf"in use by process {orphan.pid}\."),
            device_held("cuda", patience_s=0.1),
        ):
            pytest.fail("both have it")
