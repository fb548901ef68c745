"""Range estimation by percentile and by the least squared error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.quantization import load_quantsim, onnx_backend, quantize_model, torch_backend
from hpe_tasks.quantization.ranges import encoding_analyzer, spread_sample
from support import tiny_networks as tiny

pytestmark = pytest.mark.usefixtures("one_thread")

BACKENDS = ["torch", "onnx"]


def prepare(backend: str, folder: Path) -> tuple[Any, Path]:
    if backend == "torch":
        config = tiny.mobilenet_config()
        return config, tiny.write_checkpoint(folder / "network.safetensors", config)
    config = tiny.onnx_config()
    return config, tiny.write_onnx(folder / "network.onnx")


def input_range(backend: str, folder: Path, images: np.ndarray, **settings: Any) -> tuple[float, float]:
    """The range of the network's input: what is in it is known."""
    config, source = prepare(backend, folder)
    recipe = QuantizationRecipe(**settings)
    if backend == "torch":
        sim = torch_backend.calibrated_sim(config, recipe, source, [images], "cpu")
        first = next(q for m in sim.model.modules() for q in getattr(m, "input_quantizers", ()) if q is not None)
        return first.get_min().item(), first.get_max().item()
    sim, _ = onnx_backend.calibrated_sim(config, recipe, source, [images], folder / "prepared.onnx", "cpu")
    (encoding,) = sim.qc_quantize_op_dict["image"].get_encodings()
    return encoding.min, encoding.max


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_percentile_leaves_rare_values_out_and_the_extremes_do_not(backend: str, tmp_path: Path) -> None:
    config, _ = prepare(backend, tmp_path)
    images = tiny.smooth_images(4, config)
    images[0, 0, 0, 0], images[1, 1, 1, 1] = 50.0, -40.0
    low, high = input_range(backend, tmp_path, images, scheme="min_max")
    assert (low, high) == pytest.approx((-40, 50), rel=0.02)
    low, high = input_range(backend, tmp_path, images, scheme="percentile", percentile=99.9)
    wanted = np.percentile(images, [0.1, 99.9])
    assert (low, high) == pytest.approx(tuple(wanted), abs=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_least_squared_error_is_found(backend: str, tmp_path: Path) -> None:
    """Against a search of its own over what is clipped and what is rounded."""
    config, _ = prepare(backend, tmp_path)
    rng = np.random.default_rng(0)
    images = tiny.smooth_images(4, config) + rng.standard_t(3, size=(4, 3, *config.input_size[::-1])).astype(np.float32)

    def error(bottom: float, top: float) -> float:
        step = (top - bottom) / 255
        zero = np.rint(-bottom / step)
        codes = np.clip(np.rint(images / step) + zero, 0, 255)
        return float(np.square((codes - zero) * step - images).mean())

    extremes = float(images.min()), float(images.max())
    best = min(
        error(extremes[0] * a, extremes[1] * b) for a in np.linspace(0.1, 1, 46) for b in np.linspace(0.1, 1, 46)
    )
    found = {
        scheme: error(*input_range(backend, tmp_path, images, scheme=scheme))
        for scheme in ("min_max", "tf_enhanced", "mse")
    }
    assert found["mse"] < found["min_max"]
    assert found["mse"] <= found["tf_enhanced"] * 1.001
    assert found["mse"] == pytest.approx(best, rel=0.1)


@pytest.mark.parametrize("scheme", [pytest.param("percentile", marks=pytest.mark.long), "mse"])
@pytest.mark.parametrize("granularity", ["per_channel", pytest.param("per_tensor", marks=pytest.mark.long)])
@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.long), "onnx"])
def test_the_simulation_is_rebuilt_bit_for_bit(backend: str, granularity: str, scheme: str, tmp_path: Path) -> None:
    config, source = prepare(backend, tmp_path)
    recipe = QuantizationRecipe(scheme=scheme, granularity=granularity)
    images = tiny.smooth_images(4, config)
    if backend == "torch":
        sim = torch_backend.calibrated_sim(config, recipe, source, [images], "cpu")
        expected = torch_backend.as_predictor(sim, config, "cpu")(images)["heatmaps"]
    else:
        prepared = tmp_path / "prepared.onnx"
        sim, _ = onnx_backend.calibrated_sim(config, recipe, source, [images], prepared, "cpu")
        expected = onnx_backend.as_predictor(sim, config, prepared)(images)["heatmaps"]
    (out := tmp_path / "out").mkdir()
    files = quantize_model(config, recipe, source, [images], out, "cpu")
    np.testing.assert_array_equal(
        load_quantsim(config, recipe, files.model, files.encodings, "cpu")(images)["heatmaps"], expected
    )


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.long), "onnx"])
def test_weights_alone_may_have_the_least_squared_error(backend: str, tmp_path: Path) -> None:
    config, source = prepare(backend, tmp_path)
    images = tiny.smooth_images(4, config)

    def encodings(**settings: Any) -> tuple[Any, Any]:
        recipe = QuantizationRecipe(saturation_free=False, **settings)
        (out := tmp_path / recipe.name).mkdir()
        stored = json.loads(quantize_model(config, recipe, source, [images], out, "cpu").encodings.read_text())
        return stored["param_encodings"], stored["activation_encodings"]

    both, weights = encodings(scheme="mse"), encodings(scheme="min_max", weight_scheme="mse")
    assert weights[0] == both[0] != encodings(scheme="min_max")[0]
    assert weights[1] != both[1]


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 64, 112, 112), (1, 224, 224, 96)])
def test_a_sample_is_spread_over_a_map_and_holds_its_extremes(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sample = spread_sample(values)
    assert sample.dtype == np.float32
    assert sample.size <= min(values.size, 65_538)
    assert (sample.min(), sample.max()) == (values.min(), values.max())
    for axis in range(1, len(shape)):
        # Every row, column and channel has its share.
        places = np.arange(values.size).reshape(shape)
        seen = np.unique(np.unravel_index(spread_sample(places), shape)[axis])
        assert len(seen) == shape[axis]


def test_channels_have_percentiles_of_their_own() -> None:
    analyzer = encoding_analyzer("percentile", QuantizationRecipe(percentile=99), (2, 1))
    values = np.stack([np.linspace(-1, 1, 10_001), np.linspace(-5, 5, 10_001)]).astype(np.float32)
    analyzer.update_stats(torch.from_numpy(values))
    _, high = analyzer.compute_encodings(255, is_symmetric=False)
    assert high.flatten().tolist() == pytest.approx([0.98, 4.9], rel=0.01)
