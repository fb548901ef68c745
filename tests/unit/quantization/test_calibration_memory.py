"""A calibration on a device whose memory does not hold a batch counts each image once."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.quantization import quantize_model, torch_backend
from support import tiny_networks as tiny

CONFIG = tiny.mobilenet_config()
MOST = 2


def small_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the middle of a simulated network take no more than `MOST` images; how many it was shown at a time."""
    shown: list[int] = []
    build = torch_backend.build_sim

    def built(*arguments: Any) -> Any:
        sim = build(*arguments)
        layers = [module for module in sim.model.modules() if hasattr(module, "output_quantizers")]

        def out_of_memory(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            shown.append(len(inputs[0]))
            if len(inputs[0]) > MOST:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        layers[len(layers) // 2].register_forward_pre_hook(out_of_memory)
        return sim

    monkeypatch.setattr(torch_backend, "build_sim", built)
    return shown


@pytest.mark.parametrize(
    "scheme",
    [pytest.param("tf_enhanced", id="histograms"), pytest.param("min_max", id="extremes", marks=pytest.mark.long)],
)
def test_ranges_are_those_of_smaller_batches(
    scheme: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, checkpoint = QuantizationRecipe(scheme=scheme), tiny.write_checkpoint(tmp_path / "w.safetensors", CONFIG)
    images = tiny.smooth_images(8, CONFIG)

    def calibrated(name: str, sizes: tuple[int, ...]) -> Any:
        out = tmp_path / name
        out.mkdir()
        begins = [sum(sizes[:index]) for index in range(len(sizes))]
        batches = [images[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)]
        return json.loads(quantize_model(CONFIG, recipe, checkpoint, batches, out, "cpu").encodings.read_text())

    expected = calibrated("plain", (2, 2, 2, 2))
    shown = small_memory(monkeypatch)
    with caplog.at_level(logging.WARNING):
        found = calibrated("small", (4, 4))
    assert found == expected
    assert shown[-5:] == [4, 2, 2, 2, 2]
    assert caplog.text.count("The memory does not suffice: from here on, 2 images at a time.") == 1
