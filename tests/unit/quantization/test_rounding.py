"""SeqMSE and AdaRound in both backends, on the grid of the int8 kernels and without it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.inference import fp32_predictor
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.quantization import load_quantsim, onnx_backend, quantize_model, torch_backend
from hpe_tasks.quantization.aimet import import_aimet
from hpe_tasks.quantization.rounding import looked_at
from hpe_tasks.quantization.weight_grid import Grid, Layer, LayerWeights
from support import tiny_networks as tiny

pytestmark = pytest.mark.usefixtures("one_thread")

# The torch network has 68 layers, the other one three.
BACKENDS = [pytest.param("torch", marks=pytest.mark.slow), "onnx"]
STEPS = {"torch": 100, "onnx": 300}
TECHNIQUES = {"seq_mse": {"rounding": "seq_mse"}, "adaround": {"rounding": "adaround"}}


def recipe_of(backend: str, **settings: Any) -> QuantizationRecipe:
    return QuantizationRecipe(**{"scheme": "min_max", "adaround_iterations": STEPS[backend], **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rounding")


@pytest.fixture(scope="module")
def sources(folder: Path) -> dict[str, tuple[Any, Path]]:
    mobilenet, users = tiny.mobilenet_config(), tiny.onnx_config()
    return {
        "torch": (mobilenet, tiny.write_checkpoint(folder / "network.safetensors", mobilenet)),
        "onnx": (users, tiny.write_onnx(folder / "network.onnx")),
    }


Simulated = tuple[Any, Callable[[np.ndarray], np.ndarray], list[LayerWeights]]


def simulated(backend: str, source: tuple[Any, Path], recipe: QuantizationRecipe, folder: Path) -> Simulated:
    """A simulation whose activations are float: what it loses, its weights lose; and its weights."""
    config, checkpoint = source
    images = tiny.smooth_images(16, config)
    if backend == "torch":
        sim = torch_backend.calibrated_sim(config, recipe, checkpoint, [images], "cpu")
        import_aimet("aimet_torch.utils").remove_activation_quantizers(sim.model).__enter__()
        predict = torch_backend.as_predictor(sim, config, "cpu")
        weights = list(torch_backend.weights_of(sim, recipe))
    else:
        prepared = folder / f"{recipe.name}.onnx"
        sim, _ = onnx_backend.calibrated_sim(config, recipe, checkpoint, [images], prepared, "cpu")
        for name in sim.activation_names:
            sim.qc_quantize_op_dict[name].enabled = False
        predict = onnx_backend.as_predictor(sim, config, prepared)
        weights = list(onnx_backend.weights_of(sim, recipe))
    return sim, lambda given: predict(given)["heatmaps"], weights


def loss(backend: str, source: tuple[Any, Path], simulation: Simulated) -> float:
    """Share of the outputs' energy that the rounded weights cost."""
    config, checkpoint = source
    images, predict = tiny.smooth_images(16, config), simulation[1]
    float_maps = fp32_predictor(config, checkpoint, "cpu")(images)["heatmaps"]
    return float(np.square(predict(images) - float_maps).mean() / np.square(float_maps).mean())


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_of_four_bits_lose_less(
    backend: str, technique: str, sources: dict[str, tuple[Any, Path]], tmp_path: Path
) -> None:
    source = sources[backend]
    losses = [
        loss(backend, source, simulated(backend, source, recipe_of(backend, param_bw=4, **settings), tmp_path))
        for settings in ({}, TECHNIQUES[technique])
    ]
    assert losses[1] < 0.9 * losses[0]


def codes_of(each: LayerWeights) -> np.ndarray:
    return each.weight / each.along_channels(each.scale) + each.along_channels(each.zero_point)


@pytest.mark.parametrize("granularity", ["per_channel", pytest.param("per_tensor", marks=pytest.mark.long)])
@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.long), "onnx"])
def test_what_adaround_chose_outlives_the_grid(
    backend: str, granularity: str, sources: dict[str, tuple[Any, Path]], tmp_path: Path
) -> None:
    """On steps that keep sums in range: the codes are others than the nearest ones, and the weights lose less.

    The torch network has random weights and amplifies every rounding from layer to layer: 8 bits are asked for their
    codes there, and 4 bits above for what they lose.
    """
    source = sources[backend]
    plain = recipe_of(backend, granularity=granularity)
    rounded = plain.changed(**TECHNIQUES["adaround"], adaround_iterations=300 if backend == "onnx" else 30)
    assert plain.keeps_sums_in_range
    nearest = simulated(backend, source, plain, tmp_path)
    chosen = simulated(backend, source, rounded, tmp_path)
    moved = 0
    for one, other in zip(nearest[2], chosen[2], strict=True):
        np.testing.assert_allclose(other.scale, one.scale, rtol=1e-5)
        codes = codes_of(other)
        np.testing.assert_allclose(codes, np.rint(codes), atol=2e-3)
        steps = np.abs(np.rint(codes) - np.rint(codes_of(one)))
        assert steps.max() <= 2
        moved += int(np.count_nonzero(steps))
        # The grid, laid over it once more, finds nothing to do.
        again = other.fitted()
        np.testing.assert_allclose(again.values, other.weight, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(np.ravel(again.scale), np.ravel(other.scale), rtol=1e-6)
    assert moved
    if backend == "onnx":
        assert loss(backend, source, chosen) < loss(backend, source, nearest)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"rounding": "seq_mse"}, id="seq-mse"),
        pytest.param(TECHNIQUES["adaround"], id="adaround", marks=pytest.mark.long),
        pytest.param(
            {"rounding": "seq_mse", "granularity": "per_tensor"}, id="seq-mse-per-tensor", marks=pytest.mark.long
        ),
        pytest.param(
            {**TECHNIQUES["adaround"], "saturation_free": False}, id="adaround-full-range", marks=pytest.mark.long
        ),
        pytest.param(
            {**TECHNIQUES["adaround"], "scheme": "mse", "bias_correction": True},
            id="all-together",
            marks=pytest.mark.long,
        ),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_rebuilt_bit_for_bit_and_exported_as_it_is(
    backend: str, settings: dict[str, Any], sources: dict[str, tuple[Any, Path]], tmp_path: Path
) -> None:
    config, checkpoint = sources[backend]
    recipe = recipe_of(backend, **{**settings, "adaround_iterations": 10})
    images = tiny.smooth_images(16, config)
    if backend == "torch":
        sim = torch_backend.calibrated_sim(config, recipe, checkpoint, [images], "cpu")
        expected = torch_backend.as_predictor(sim, config, "cpu")(images)["heatmaps"]
    else:
        prepared = tmp_path / "prepared.onnx"
        sim, _ = onnx_backend.calibrated_sim(config, recipe, checkpoint, [images], prepared, "cpu")
        expected = onnx_backend.as_predictor(sim, config, prepared)(images)["heatmaps"]
    (stored := tmp_path / "stored").mkdir()
    files = quantize_model(config, recipe, checkpoint, [images], stored, "cpu")
    maps = load_quantsim(config, recipe, files.model, files.encodings, "cpu")(images)["heatmaps"]
    np.testing.assert_array_equal(maps, expected)
    (out := tmp_path / "exported").mkdir()
    file = export_onnx(config, recipe, files.model, files.encodings, out)
    exported = onnx_predictor(file, config, threads=1)(images)["heatmaps"]
    assert exported.shape == maps.shape
    if backend == "onnx":
        # One code of the last activation may differ where arithmetic rounds otherwise. The random weights of the other
        # network, which is far deeper, make of such a code another map, also where they are rounded to the nearest.
        assert np.abs(exported - maps).max() < 0.02 * np.abs(maps).max()
        assert np.square(exported - maps).mean() < 1e-4 * np.square(maps).mean()
    if recipe.keeps_sums_in_range:
        assert all(family.proved for family in prove_kernels(file).families.values())


def test_images_looked_at_are_of_one_size_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.aimet_config()
    wide, high = tiny.both_orientations(11, config)
    kept, again = looked_at(iter([wide[:4], high, wide[4:]]))
    assert [batch.shape for batch in kept] == [(8, 3, 48, 64)]
    np.testing.assert_array_equal(kept[0], wide[:8])
    assert [batch.shape[0] for batch in again] == [4, 11, 7]
    monkeypatch.setattr("hpe_tasks.quantization.rounding.LOOKED_AT_PIXELS", 16 * 48 * 64)
    drawn: list[int] = []

    def batches() -> Any:
        for number in range(9):
            drawn.append(number)
            yield wide[:4]

    kept, again = looked_at(batches())
    assert sum(map(len, kept)) == 16
    assert drawn == [0, 1, 2, 3]
    assert len(list(again)) == 9


def test_a_network_that_aimet_cannot_round_is_refused_with_the_reason(tmp_path: Path) -> None:
    """AdaRound of aimet_onnx runs convolutions without their `auto_pad`, so what it computes has another size.

    The normal form writes such padding out; without it the network stays as it came.
    """
    model = tiny.pose_onnx()
    for node in model.graph.node:
        if node.op_type == "Conv" and any(a.name == "pads" for a in node.attribute):
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))
            if node.output[0] == "a":
                node.attribute.append(helper.make_attribute("strides", [2, 2]))
            else:
                node.attribute.append(helper.make_attribute("group", 8))
    onnx.save(model, tmp_path / "network.onnx")
    config = tiny.onnx_config()
    with pytest.raises(QuantizationError, match="AIMET's adaround cannot work with this network") as caught:
        quantize_model(
            config,
            recipe_of("onnx", rounding="adaround", adaround_iterations=2, fold_batch_norms=False),
            tmp_path / "network.onnx",
            [tiny.smooth_images(4, config)],
            tmp_path,
            "cpu",
        )
    assert "nearest" in str(caught.value.hint)


def test_the_grid_at_steps_that_stand_takes_back_single_codes_only() -> None:
    """What AdaRound rounds up beyond a pair's limit."""
    weight = np.array([[127, 2, 100, 28], [-64, -65, 3, 4]], np.float32).reshape(2, 4, 1, 1)
    stored: list[Grid] = []
    each = LayerWeights("layer", weight, np.ones(2), np.zeros(2, np.int64), Layer("conv", 0), stored.append)
    grid = each.fitted(np.ones(1))
    np.testing.assert_array_equal(grid.scale, 1)
    changed = np.abs(grid.values - weight)
    assert changed.max() == 1
    assert np.count_nonzero(changed) == 2
    each.store(grid)
    assert partial(each.along_channels)(grid.scale).shape == (2, 1, 1, 1)
    assert stored == [grid]
