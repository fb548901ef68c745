"""Biases that make good the shift of each layer's mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.inference import fp32_predictor
from hpe_tasks.quantization import load_quantsim, quantize_model
from hpe_tasks.quantization.bias_correction import add_biases, correct, with_biases
from support import tiny_networks as tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_means_of_the_outputs_come_together(backend: str, granularity: str, tmp_path: Path) -> None:
    config: Any = tiny.mobilenet_config() if backend == "torch" else tiny.onnx_config()
    if backend == "torch":
        source = tiny.write_checkpoint(tmp_path / "network.safetensors", config)
    else:
        source = tiny.write_onnx(tmp_path / "network.onnx")
    images = tiny.smooth_images(16, config)
    means = fp32_predictor(config, source, "cpu")(images)["heatmaps"].mean(axis=(0, 2, 3))

    def shift(**settings: Any) -> float:
        # Few bits move means a lot.
        recipe = QuantizationRecipe(scheme="min_max", param_bw=4, granularity=granularity, **settings)
        (out := tmp_path / recipe.name).mkdir()
        files = quantize_model(config, recipe, source, [images], out, "cpu")
        maps = load_quantsim(config, recipe, files.model, files.encodings, "cpu")(images)["heatmaps"]
        return float(np.abs(maps.mean(axis=(0, 2, 3)) - means).mean())

    assert shift(bias_correction=True) < 0.1 * shift()


def test_layers_are_corrected_one_after_the_other() -> None:
    """A chain in which each layer passes on what the one before it is off by, and adds one of its own."""
    own, biases = {"a": 1.0, "b": -2.0, "c": 0.5}, {"a": 0.0, "b": 0.0, "c": 0.0}
    asked: list[tuple[str, ...]] = []

    def measure(names: Any) -> dict[str, np.ndarray]:
        asked.append(tuple(names))
        off, means = 0.0, {}
        for name, shift in own.items():
            off = 3 * off + shift + biases[name]
            means[name] = np.array([off])
        return {name: means[name] for name in names}

    def add(name: str, shift: np.ndarray) -> None:
        biases[name] += float(shift[0])

    correct(list(own), {name: np.zeros(1) for name in own}, measure, add)
    assert asked == [("a",), ("b",), ("c",)]
    assert biases == {"a": -1.0, "b": 2.0, "c": -0.5}


def test_a_deep_network_takes_a_bounded_number_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpe_tasks.quantization.bias_correction.MOST_PASSES", 4)
    asked: list[int] = []

    def measure(names: Any) -> dict[str, np.ndarray]:
        asked.append(len(names))
        return {name: np.zeros(1) for name in names}

    layers = [str(number) for number in range(10)]
    correct(layers, dict.fromkeys(layers, np.zeros(1)), measure, lambda *_: None)
    assert asked == [3, 3, 3, 1]
    correct([], {}, measure, lambda *_: None)
    assert len(asked) == 4


def test_layers_without_a_bias_get_one_of_zeros() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.ConvTranspose2d(4, 6, 2, bias=False), nn.Conv2d(6, 2, 1), nn.BatchNorm2d(2)
    ).eval()
    images = torch.randn(2, 3, 5, 5)
    before = network(images)
    kept = network[2].bias
    add_biases(network)
    biases = [values for name, values in network.named_parameters() if name.endswith("bias")]
    assert [len(values) for values in biases] == [4, 6, 2, 2]
    assert network[2].bias is kept
    torch.testing.assert_close(network(images), before)


def test_layers_of_a_graph_without_a_bias_get_one_of_zeros() -> None:
    model = with_biases(tiny.pose_onnx())
    onnx.checker.check_model(model, full_check=True)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    biases = [tensors[node.input[2]] for node in model.graph.node if node.op_type == "Conv"]
    assert [bias.shape for bias in biases] == [(8,), (8,), (5,)]
    assert not biases[0].any()
    assert biases[1].any()
