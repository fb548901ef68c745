from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.config.recipes import RECIPES as config_recipes
from hpe_tasks.errors import CheckpointError, ConfigError, QuantizationError
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.quantization import (
    QuantizedFiles,
    best_device,
    load_quantsim,
    onnx_backend,
    quantize_model,
    tool_versions,
    torch_backend,
)
from hpe_tasks.quantization.aimet import vendor_warnings_muted
from support import tiny_networks as tiny
from support.named_outputs import joined

pytestmark = pytest.mark.usefixtures("one_thread")

MOBILENET = tiny.mobilenet_config()
USERS_OWN = tiny.onnx_config()
AIMET_POSE = tiny.aimet_config()
MIN_MAX = QuantizationRecipe(scheme="min_max")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantization")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return tiny.write_checkpoint(folder / "weights.safetensors", MOBILENET)


@pytest.fixture(scope="module")
def users_file(folder: Path) -> Path:
    return tiny.write_onnx(folder / "users.onnx")


@pytest.fixture(scope="module")
def stored(folder: Path, checkpoint: Path) -> QuantizedFiles:
    out = folder / "stored"
    out.mkdir()
    return quantize_model(MOBILENET, MIN_MAX, checkpoint, [tiny.smooth_images(4, MOBILENET)], out, "cpu")


RECIPES = {
    "min-max": MIN_MAX,
    "tf_enhanced": QuantizationRecipe(),
    "per-tensor": QuantizationRecipe(scheme="min_max", granularity="per_tensor"),
    "equalized": QuantizationRecipe(scheme="min_max", cross_layer_equalization=True),
    "not-folded": QuantizationRecipe(scheme="min_max", fold_batch_norms=False),
    "full-range": QuantizationRecipe(scheme="min_max", saturation_free=False),
}


TORCH_RECIPES = [
    pytest.param(recipe, id=name, marks=() if name in {"min-max", "per-tensor"} else pytest.mark.slow)
    for name, recipe in RECIPES.items()
]


@pytest.mark.parametrize("recipe", TORCH_RECIPES)
def test_torch_simulation_is_rebuilt_bit_for_bit(recipe: QuantizationRecipe, checkpoint: Path, tmp_path: Path) -> None:
    images = tiny.smooth_images(4, MOBILENET)
    sim = torch_backend.calibrated_sim(MOBILENET, recipe, checkpoint, [images], "cpu")
    expected = torch_backend.as_predictor(sim, MOBILENET, "cpu")(images)["heatmaps"]
    files = QuantizedFiles(*torch_backend._store(sim, tmp_path))
    heatmaps = load_quantsim(MOBILENET, recipe, files.model, files.encodings, "cpu")(images)["heatmaps"]
    assert heatmaps.shape == (4, 17, 16, 16)
    assert heatmaps.dtype == np.float32
    np.testing.assert_array_equal(heatmaps, expected)


def test_torch_simulation_is_calibrated_and_run_without_tf32_and_repeatably(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the float network is: on a GPU nothing but quantization may lie between their figures."""
    images, cudnn = tiny.smooth_images(2, MOBILENET), torch.backends.cudnn
    seen: list[tuple[bool, bool]] = []
    build_sim = torch_backend.build_sim

    def watched(*args: Any) -> Any:
        sim = build_sim(*args)
        sim.model.register_forward_pre_hook(lambda *_: seen.append((cudnn.allow_tf32, cudnn.deterministic)))
        return sim

    monkeypatch.setattr(torch_backend, "build_sim", watched)
    sim = torch_backend.calibrated_sim(MOBILENET, MIN_MAX, checkpoint, [images], "cpu")
    assert set(seen) == {(False, True)}
    seen.clear()
    torch_backend.as_predictor(sim, MOBILENET, "cpu")(images)
    assert seen == [(False, True)]
    assert cudnn.allow_tf32  # as it was


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_onnx_simulation_is_rebuilt_bit_for_bit(recipe: QuantizationRecipe, layout: str, tmp_path: Path) -> None:
    nhwc = layout == "nhwc"
    shape = (1, 32, 64, 3) if nhwc else ("batch", 3, 32, 64)
    config = tiny.onnx_config(input_layout=layout, output_layout=layout)
    source = tiny.write_onnx(tmp_path / "users.onnx", shape=shape, nhwc=nhwc)
    images = tiny.smooth_images(3, config)
    prepared = tmp_path / "prepared.onnx"
    sim, _ = onnx_backend.calibrated_sim(config, recipe, source, [images], prepared, "cpu")
    expected = onnx_backend.as_predictor(sim, config, prepared)(images)["heatmaps"]
    out = tmp_path / "out"
    out.mkdir()
    files = quantize_model(config, recipe, source, [images], out, "cpu")
    heatmaps = load_quantsim(config, recipe, files.model, files.encodings, "cpu")(images)["heatmaps"]
    assert heatmaps.shape == (3, 5, 16, 32)
    np.testing.assert_array_equal(heatmaps, expected)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_ranges_of_weights_may_be_estimated_in_their_own_way(backend: str, tmp_path: Path) -> None:
    config = MOBILENET if backend == "torch" else tiny.onnx_config()
    if backend == "torch":
        source = tiny.write_checkpoint(tmp_path / "network.safetensors", config)
    else:
        source = tiny.write_onnx(tmp_path / "network.onnx")
    images = tiny.smooth_images(4, config)

    def encodings(**settings: Any) -> tuple[Any, Any]:
        recipe = QuantizationRecipe(saturation_free=False, **settings)
        (out := tmp_path / recipe.ranges).mkdir()
        files = quantize_model(config, recipe, source, [images], out, "cpu")
        stored = json.loads(files.encodings.read_text())
        again = load_quantsim(config, recipe, files.model, files.encodings, "cpu")(images)["heatmaps"]
        assert np.isfinite(again).all()
        return stored["param_encodings"], stored["activation_encodings"]

    by_extremes, by_error = encodings(scheme="min_max"), encodings(scheme="tf_enhanced")
    both = encodings(scheme="tf_enhanced", weight_scheme="min_max")
    assert both[0] == by_extremes[0] != by_error[0]
    assert both[1] != by_extremes[1]


_LOAD = """
import logging, sys
from pathlib import Path
import numpy as np, torch
handler = logging.StreamHandler()
logging.basicConfig(handlers=[handler], level=logging.INFO)
torch.set_num_threads(1)
from support import tiny_networks as tiny
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.quantization import load_quantsim
model, encodings, out = map(Path, sys.argv[1:])
config = tiny.mobilenet_config()
predict = load_quantsim(config, QuantizationRecipe(scheme="min_max"), model, encodings, "cpu")
np.save(out, predict(tiny.smooth_images(2, config))["heatmaps"])
# AIMET would have closed this handler and added its own.
assert logging.getLogger().handlers == [handler]
assert not logging.getLogger("Quant").handlers
"""


@pytest.mark.slow
def test_another_process_rebuilds_the_same_simulation_and_prints_nothing(
    stored: QuantizedFiles, tmp_path: Path
) -> None:
    out = tmp_path / "heatmaps.npy"
    tests = Path(tiny.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, stored.model, stored.encodings, out],
        env={"PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    here = load_quantsim(MOBILENET, MIN_MAX, stored.model, stored.encodings, "cpu")
    np.testing.assert_array_equal(np.load(out), here(tiny.smooth_images(2, MOBILENET))["heatmaps"])


@pytest.mark.slow
def test_activations_are_quantized_once_and_depthwise_transposes_per_channel(checkpoint: Path) -> None:
    images = tiny.smooth_images(4, MOBILENET)
    sim = torch_backend.calibrated_sim(MOBILENET, QuantizationRecipe(), checkpoint, [images], "cpu")
    depthwise = sim.model.get_submodule("features.3.layers.0")
    assert depthwise.groups > 1
    assert depthwise.output_quantizers[0] is None
    assert sim.model.get_submodule("features.3.layers.2").output_quantizers[0] is not None
    transposed = sim.model.get_submodule("head.3")
    assert transposed.param_quantizers["weight"].get_scale().numel() == transposed.in_channels
    relu = sim.model.get_submodule("head.5").output_quantizers[0]
    assert relu.get_min().item() == pytest.approx(0, abs=1e-6)


def test_encodings_are_readable_json(stored: QuantizedFiles) -> None:
    encodings = json.loads(stored.encodings.read_text())
    weight = encodings["param_encodings"]["heatmaps.weight"]
    assert len(weight) == 17
    assert {entry["bitwidth"] for entry in weight} == {8}
    assert encodings["activation_encodings"]["heatmaps"]["output"]["0"]["bitwidth"] == 8


PUBLISHED = QuantizationRecipe(granularity="per_tensor")


def _quantized_layers(sim: Any) -> dict[str, Any]:
    return {name: module for name, module in sim.model.named_modules() if hasattr(module, "param_quantizers")}


@pytest.fixture(scope="module")
def aimet_checkpoint(folder: Path) -> Path:
    return tiny.write_checkpoint(folder / "aimet_pose.safetensors", AIMET_POSE)


@pytest.fixture(scope="module")
def aimet_sim(aimet_checkpoint: Path) -> Any:
    """Calibrated on two wide and two high images."""
    batches = tiny.both_orientations(2, AIMET_POSE)
    return torch_backend.calibrated_sim(AIMET_POSE, MIN_MAX, aimet_checkpoint, batches, "cpu")


@pytest.mark.parametrize("granularity", ["per_tensor", "per_channel"])
def test_aimet_pose_is_quantized_as_published(granularity: str) -> None:
    """Per tensor: 8-bit asymmetric weights, no quantized bias, quantized input, tf_enhanced. Per channel: symmetric."""
    assert config_recipes["w8a8_per_tensor"] == PUBLISHED
    recipe = config_recipes[f"w8a8_{granularity}"]
    with vendor_warnings_muted():
        prepared = torch_backend._prepare(build_model(AIMET_POSE), AIMET_POSE, recipe, equalize=False)
        sim = torch_backend.build_sim(prepared, AIMET_POSE, recipe, "cpu")
    layers = _quantized_layers(sim)
    convolutions = {name: m for name, m in layers.items() if isinstance(m, torch.nn.Conv2d)}
    assert len(convolutions) == 62
    for module in convolutions.values():
        quantizers: Any = module.param_quantizers
        weight = quantizers["weight"]
        assert weight.bitwidth == 8
        assert weight.symmetric == (granularity == "per_channel")
        assert tuple(weight.shape) == ((module.out_channels, 1, 1, 1) if granularity == "per_channel" else ())
        assert "bias" not in quantizers or quantizers["bias"] is None
    assert [name for name, m in layers.items() if any(q is not None for q in m.input_quantizers)] == ["basemodel.0"]
    # Each result is quantized once: convolutions before a ReLU and pooling leave it to what comes before or after.
    silent = {name for name, m in layers.items() if m.output_quantizers[0] is None}
    before_relu = {name for name, m in convolutions.items() if m.bias is not None} - {
        f"stage{stage}_{branch}.8" for stage in (1, 2) for branch in (1, 2)
    }
    assert silent == before_relu | {"basemodel.4", "basemodel.9", "basemodel.18"}
    quantizers = [q for m in layers.values() for q in m.output_quantizers if q is not None]
    for quantizer in quantizers:
        assert (quantizer.bitwidth, quantizer.symmetric, quantizer.signed) == (8, False, False)
        assert type(quantizer.encoding_analyzer).__name__ == "TfEnhancedEncodingAnalyzer"


def test_what_is_concatenated_keeps_codes_of_its_own(aimet_sim: Any) -> None:
    """AIMET would let the features, which a ReLU leaves positive, share the range of the fields beside them."""
    names = ("stage1_1.8", "stage1_2.8", "pre_stage.3", "module_cat")
    layers = _quantized_layers(aimet_sim)
    pafs, heatmaps, features, joined = (layers[name].output_quantizers[0] for name in names)
    assert features.get_min().item() == 0
    assert joined.get_min().item() == pytest.approx(min(pafs.get_min().item(), heatmaps.get_min().item()), rel=0.05)
    assert joined.get_max().item() == pytest.approx(features.get_max().item(), rel=0.05)
    assert max(pafs.get_scale().item(), heatmaps.get_scale().item()) < joined.get_scale().item()


def test_simulation_of_aimet_pose_is_rebuilt_for_both_orientations(
    aimet_sim: Any, aimet_checkpoint: Path, tmp_path: Path
) -> None:
    predict = torch_backend.as_predictor(aimet_sim, AIMET_POSE, "cpu")
    batches = tiny.both_orientations(2, AIMET_POSE)
    expected = [joined(predict(images)) for images in batches]
    files = QuantizedFiles(*torch_backend._store(aimet_sim, tmp_path))
    rebuilt = load_quantsim(AIMET_POSE, MIN_MAX, files.model, files.encodings, "cpu")
    network = build_model(AIMET_POSE)
    load_checkpoint(network, aimet_checkpoint)
    for images, maps in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(joined(rebuilt(images)), maps)
        with torch.inference_mode():
            pafs, heatmaps = (part.numpy() for part in network(torch.from_numpy(images)))
        assert maps.dtype == np.float32
        assert maps.shape == (2, 57, images.shape[2] // 8, images.shape[3] // 8)
        assert np.corrcoef(maps[:, :38].ravel(), pafs.ravel())[0, 1] > 0.9
        assert np.corrcoef(maps[:, 38:].ravel(), heatmaps.ravel())[0, 1] > 0.9


def test_a_batch_of_neither_orientation_is_refused(aimet_checkpoint: Path, tmp_path: Path) -> None:
    images = np.zeros((1, 3, 48, 48), np.float32)
    with pytest.raises(QuantizationError, match=r"expected float32 \(N, 3, 48, 64\) or \(N, 3, 64, 48\)"):
        quantize_model(AIMET_POSE, MIN_MAX, aimet_checkpoint, [images], tmp_path, "cpu")


@pytest.mark.parametrize("recipe", [MIN_MAX, RECIPES["per-tensor"]], ids=["per-channel", "per-tensor"])
def test_a_users_bottom_up_network_is_simulated_for_both_orientations(
    recipe: QuantizationRecipe, tmp_path: Path
) -> None:
    config = AIMET_POSE.model_copy(update={"architecture": "onnx"})
    source = tmp_path / "users.onnx"
    onnx.save(tiny.paf_onnx(), source)
    batches = tiny.both_orientations(2, config)
    out = tmp_path / "out"
    out.mkdir()
    files = quantize_model(config, recipe, source, batches, out, "cpu")
    simulate = load_quantsim(config, recipe, files.model, files.encodings, "cpu")
    for images in batches:
        maps, expected = joined(simulate(images)), joined(onnx_predictor(source, config, threads=1)(images))
        assert maps.shape == expected.shape == (2, 57, images.shape[2] // 8, images.shape[3] // 8)
        # One scale for all weights of a layer, and that one may have grown to keep sums in range.
        np.testing.assert_allclose(maps, expected, atol=0.15 if recipe.granularity == "per_tensor" else 0.1)
        assert not np.array_equal(maps, expected)


def _no_image(config: ModelConfig) -> list[np.ndarray]:
    return []


def _wrong_size(config: ModelConfig) -> list[np.ndarray]:
    return [np.zeros((1, 3, 8, 8), np.float32)]


def _wrong_type(config: ModelConfig) -> list[np.ndarray]:
    return [tiny.smooth_images(1, config).astype(np.float64)]


def _not_finite(config: ModelConfig) -> list[np.ndarray]:
    return [np.full_like(tiny.smooth_images(1, config), np.nan)]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        pytest.param(_no_image, "no calibration image", id="no-image"),
        pytest.param(_wrong_size, r"\(1, 3, 8, 8\); expected float32", id="wrong-size"),
        pytest.param(_wrong_type, "float64", id="wrong-type"),
        pytest.param(_not_finite, "NaN", id="not-finite"),
    ],
)
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_bad_calibration_batches_are_refused(
    batches: object, message: str, backend: str, checkpoint: Path, users_file: Path, tmp_path: Path
) -> None:
    config, source = (MOBILENET, checkpoint) if backend == "torch" else (USERS_OWN, users_file)
    assert callable(batches)
    with pytest.raises(QuantizationError, match=message):
        quantize_model(config, MIN_MAX, source, batches(config), tmp_path, "cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param("{", "is not JSON", id="not-json"),
        pytest.param("[]", "no `defaults` section", id="not-an-object"),
        pytest.param('{"defaults": {"ops": {"is_output_quantized": "maybe"}}}', "AIMET does not accept", id="invalid"),
    ],
)
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_unusable_aimet_config_is_refused(
    content: str | None, message: str, backend: str, checkpoint: Path, users_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "aimet.json"
    if content is not None:
        file.write_text(content)
    config, source = (MOBILENET, checkpoint) if backend == "torch" else (USERS_OWN, users_file)
    recipe = QuantizationRecipe(scheme="min_max", aimet_config=str(file))
    with pytest.raises(ConfigError, match=message) as caught:
        quantize_model(config, recipe, source, [tiny.smooth_images(1, config)], tmp_path, "cpu")
    assert "recipe.aimet_config" in str(caught.value)
    assert caught.value.hint


def test_the_users_aimet_config_decides(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "aimet.json"
    file.write_text(
        json.dumps(
            {
                "defaults": {"ops": {"is_output_quantized": "True"}, "params": {"is_quantized": "False"}},
                "params": {},
                "op_type": {},
                "supergroups": [],
                "model_input": {},
                "model_output": {},
            }
        )
    )
    recipe = QuantizationRecipe(scheme="min_max", aimet_config=str(file))
    images = tiny.smooth_images(2, MOBILENET)
    quantize_model(MOBILENET, recipe, checkpoint, [images], tmp_path, "cpu")
    assert not json.loads((tmp_path / "encodings.json").read_text())["param_encodings"]


def test_checkpoint_of_another_architecture_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = tiny.mobilenet_config(width_multiplier=0.25)
    with pytest.raises(CheckpointError):
        quantize_model(config, MIN_MAX, checkpoint, [tiny.smooth_images(1, config)], tmp_path, "cpu")


def _foreign_encodings(files: QuantizedFiles, folder: Path) -> QuantizedFiles:
    other = folder / "encodings.json"
    other.write_text(files.encodings.read_text() + " ")
    return QuantizedFiles(files.model, other)


def _truncated_model(files: QuantizedFiles, folder: Path) -> QuantizedFiles:
    other = folder / "model.safetensors"
    other.write_bytes(files.model.read_bytes()[:-100])
    return QuantizedFiles(other, files.encodings)


@pytest.mark.parametrize("damage", [_foreign_encodings, _truncated_model], ids=["encodings", "model"])
def test_stored_files_that_do_not_belong_together_are_refused(
    damage: object, stored: QuantizedFiles, tmp_path: Path
) -> None:
    assert callable(damage)
    files = damage(stored, tmp_path)
    with pytest.raises(QuantizationError, match=r"does not belong|cannot be read") as caught:
        load_quantsim(MOBILENET, MIN_MAX, files.model, files.encodings, "cpu")
    assert "quantize" in caught.value.hint


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        pytest.param(tiny.mobilenet_config(width_multiplier=0.25), MIN_MAX, id="other-width"),
        pytest.param(MOBILENET, RECIPES["not-folded"], id="other-folding"),
        pytest.param(MOBILENET, RECIPES["per-tensor"], id="other-granularity"),
    ],
)
def test_stored_simulation_of_another_recipe_is_refused(
    config: ModelConfig, recipe: QuantizationRecipe, stored: QuantizedFiles
) -> None:
    with pytest.raises(QuantizationError):
        load_quantsim(config, recipe, stored.model, stored.encodings, "cpu")


def test_foreign_onnx_encodings_are_refused(users_file: Path, tmp_path: Path) -> None:
    files = quantize_model(USERS_OWN, MIN_MAX, users_file, [tiny.smooth_images(1, USERS_OWN)], tmp_path, "cpu")
    content = json.loads(files.encodings.read_text())
    for entry in content["activation_encodings"]:
        entry["name"] = "no such tensor"
    files.encodings.write_text(json.dumps(content))
    with pytest.raises(QuantizationError, match="does not belong"):
        load_quantsim(USERS_OWN, MIN_MAX, files.model, files.encodings, "cpu")


def test_layers_that_share_a_bias_are_quantized_each_in_its_scale(tmp_path: Path) -> None:
    """Exporters store equal tensors once. Folding the batch norm into the first layer must not change the second."""
    model = tiny.pose_onnx()
    model.graph.node[0].input.append("dw.b")
    source = tmp_path / "users.onnx"
    onnx.save(model, source)
    images = tiny.smooth_images(2, USERS_OWN)
    stored, exported = tmp_path / "stored", tmp_path / "exported"
    stored.mkdir()
    exported.mkdir()
    files = quantize_model(USERS_OWN, MIN_MAX, source, [images], stored, "cpu")
    path = export_onnx(USERS_OWN, MIN_MAX, files.model, files.encodings, exported)
    expected = onnx_predictor(source, USERS_OWN, threads=1)(images)["heatmaps"]
    heatmaps = onnx_predictor(path, USERS_OWN, threads=1)(images)["heatmaps"]
    assert np.abs(heatmaps - expected).max() < 0.05 * np.ptp(expected)


@pytest.mark.parametrize("scheme", ["min_max", "tf_enhanced"])
@pytest.mark.parametrize(
    ("backend", "granularity"),
    [
        pytest.param("torch", "per_channel", marks=pytest.mark.slow),
        pytest.param("torch", "per_tensor", marks=pytest.mark.long),
        ("onnx", "per_channel"),
        ("onnx", "per_tensor"),
    ],
)
def test_the_file_is_proved_and_the_simulation_has_its_very_weights(
    backend: str, granularity: Any, scheme: Any, checkpoint: Path, users_file: Path, tmp_path: Path
) -> None:
    config, source = (MOBILENET, checkpoint) if backend == "torch" else (USERS_OWN, users_file)
    recipe = QuantizationRecipe(scheme=scheme, granularity=granularity)
    stored, exported = tmp_path / "stored", tmp_path / "exported"
    stored.mkdir()
    exported.mkdir()
    files = quantize_model(config, recipe, source, [tiny.smooth_images(2, config)], stored, "cpu")
    path = export_onnx(config, recipe, files.model, files.encodings, exported)
    proof = prove_kernels(path)
    assert proof.layers == (68 if backend == "torch" else 3)
    assert (proof.x86_64.unproved, proof.arm64.unproved) == ((), ())
    # Full 8-bit weights were the same file as this one, if nothing had to give way.
    full = recipe.model_copy(update={"saturation_free": False})
    for folder in ("stored_full", "exported_full"):
        (tmp_path / folder).mkdir()
    files = quantize_model(config, full, source, [tiny.smooth_images(2, config)], tmp_path / "stored_full", "cpu")
    unsafe = prove_kernels(export_onnx(config, full, files.model, files.encodings, tmp_path / "exported_full"))
    assert unsafe.x86_64.unproved_layers > 0


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_the_simulated_weights_are_codes_of_the_grid(granularity: Any, checkpoint: Path) -> None:
    recipe = QuantizationRecipe(scheme="min_max", granularity=granularity)
    sim = torch_backend.calibrated_sim(MOBILENET, recipe, checkpoint, [tiny.smooth_images(2, MOBILENET)], "cpu")
    for name in ("features.0", "features.3.layers.0", "heatmaps"):
        layer = sim.model.get_submodule(name)
        quantizer = layer.param_quantizers["weight"]
        low, high = quantizer.get_min(), quantizer.get_max()
        step = (high - low) / 255
        codes = layer.weight / step - 128 - torch.round(low / step)
        torch.testing.assert_close(codes, torch.round(codes), atol=2e-3, rtol=0)
        simulated = quantizer(layer.weight).dequantize().as_subclass(torch.Tensor)
        torch.testing.assert_close(simulated, layer.weight.data, rtol=0, atol=1e-3 * step.min().item())


def test_equalization_leaves_depthwise_transposed_convolutions_as_they_are(tmp_path: Path) -> None:
    """AIMET takes their kernels for dense ones, and its graph could not be loaded."""
    model = tiny.pose_onnx()
    values = np.random.default_rng(5).normal(size=(8, 1, 2, 2)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "up.w"))
    model.graph.node.insert(
        5, onnx.helper.make_node("ConvTranspose", ["e", "up.w"], ["up"], group=8, strides=[2, 2], name="up")
    )
    model.graph.node[6].input[0] = "up"
    for node in [node for node in model.graph.node if node.op_type == "Clip"]:
        node.op_type = "Relu"
        del node.input[1:]
    source, config = tmp_path / "users.onnx", tiny.onnx_config()
    onnx.save(model, source)
    recipe = QuantizationRecipe(scheme="min_max", cross_layer_equalization=True, saturation_free=False)
    images, out = tiny.smooth_images(2, config), tmp_path / "out"
    out.mkdir()
    files = quantize_model(config, recipe, source, [images], out, "cpu")
    kept = {tensor.name: tensor for tensor in onnx.load(files.model).graph.initializer}["up.w"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept), values)
    wanted, got = (
        np.asarray(ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": images[:1]})[0])
        for path in (source, files.model)
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_behind_a_depthwise_layer_a_relu_keeps_its_quantizer(tmp_path: Path) -> None:
    """AIMET shares one quantizer between the two there, so that disabling the layer's would disable both."""
    model = tiny.pose_onnx()
    for node in [node for node in model.graph.node if node.op_type == "Clip"]:
        node.op_type = "Relu"
        del node.input[1:]
    source = tmp_path / "users.onnx"
    onnx.save(model, source)
    images = [tiny.smooth_images(2, USERS_OWN)]
    sim, _ = onnx_backend.calibrated_sim(USERS_OWN, MIN_MAX, source, images, tmp_path / "prepared.onnx", "cpu")
    enabled = {name for name, quantizer in sim.qc_quantize_op_dict.items() if quantizer.enabled}
    assert enabled == {"image", "stem.w", "c", "dw.w", "e", "head.w", "heatmaps"}
    assert sim.qc_quantize_op_dict["e"].get_encodings()[0].min == 0


def test_tool_versions_name_what_decides_the_numbers() -> None:
    assert {"aimet-torch", "aimet-onnx", "torch", "onnx", "onnxruntime"} <= tool_versions().keys()


def test_without_a_gpu_the_cpu_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert best_device() == "cpu"
