from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.models.onnx_model import describe_onnx
from hpe_tasks.onnx_export import check_onnx, export_onnx
from hpe_tasks.onnx_export.integer_kernels import (
    align_biases,
    drop_redundant_clips,
    merge_repeated_quantizers,
    sign_weights,
)
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.onnx_runtime.session import onnx_predictor, open_session
from hpe_tasks.quantization import QuantizedFiles, load_quantsim, quantize_model
from support import tiny_networks as tiny
from support.named_outputs import joined

pytestmark = pytest.mark.usefixtures("one_thread")

MIN_MAX = QuantizationRecipe(scheme="min_max")
MOBILENET = tiny.mobilenet_config()

Quantize = Callable[[ModelConfig, QuantizationRecipe], QuantizedFiles]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Quantize:
    """Quantizes each network and recipe once."""
    done: dict[str, QuantizedFiles] = {}

    def files(config: ModelConfig, recipe: QuantizationRecipe) -> QuantizedFiles:
        key = config.model_dump_json() + recipe.model_dump_json()
        if key not in done:
            folder = tmp_path_factory.mktemp("quantized")
            if config.architecture == "onnx":
                shape = ("n", 3, 32, 64) if config.input_layout == "nchw" else (1, 32, 64, 3)
                source = tiny.write_onnx(folder / "users.onnx", shape=shape, nhwc=config.input_layout == "nhwc")
            else:
                source = tiny.write_checkpoint(folder / "weights.safetensors", config)
            out = folder / "out"
            out.mkdir()
            done[key] = quantize_model(config, recipe, source, tiny.both_orientations(4, config), out, "cpu")
        return done[key]

    return files


def _run(path: Path, images: np.ndarray, *, optimized: bool = True) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


def _initializer_types(model: onnx.ModelProto, minimum_size: int) -> set[int]:
    return {t.data_type for t in model.graph.initializer if np.prod(t.dims) >= minimum_size}


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [
        pytest.param(MIN_MAX, {TensorProto.INT8}, id="per-channel-symmetric"),
        pytest.param(
            QuantizationRecipe(scheme="min_max", granularity="per_tensor"),
            {TensorProto.INT8},
            id="per-tensor-asymmetric",
        ),
    ],
)
def test_torch_network_becomes_one_small_file(
    recipe: QuantizationRecipe, weights: set[int], quantized: Quantize, tmp_path: Path
) -> None:
    files = quantized(MOBILENET, recipe)
    path = export_onnx(MOBILENET, recipe, files.model, files.encodings, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["encodings.json", "model.onnx"]
    assert (tmp_path / "encodings.json").read_bytes() == files.encodings.read_bytes()
    check_onnx(path)
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == ["heatmaps"]
    assert _initializer_types(model, 200) == weights
    codes = [n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    zeros = {t.name: t.data_type for t in model.graph.initializer}
    assert {zeros[name] for name in codes} == {TensorProto.UINT8}
    assert not [n for n in model.graph.node if n.op_type == "Clip"]
    for batch in (1, 3):
        assert _run(path, tiny.smooth_images(batch, MOBILENET)).shape == (batch, 17, 16, 16)
    audit = audit_placement(path)
    assert (audit.int8_mac_share, audit.float_operators) == (1.0, ())


@pytest.mark.parametrize(
    "recipe",
    [
        MIN_MAX,
        QuantizationRecipe(scheme="min_max", granularity="per_tensor"),
        pytest.param(QuantizationRecipe(scheme="min_max", saturation_free=False), marks=pytest.mark.slow),
    ],
    ids=lambda recipe: recipe.name,
)
def test_bottom_up_network_takes_images_of_both_orientations(
    recipe: QuantizationRecipe, quantized: Quantize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.aimet_config()
    if not recipe.saturation_free:
        # Integer kernels may clip what full-range weights give (tests/integration/test_saturation.py).
        monkeypatch.setattr("hpe_tasks.onnx_runtime.session.open_session", partial(open_session, optimized=False))
    files = quantized(config, recipe)
    path = export_onnx(config, recipe, *_paths(files), tmp_path)
    check_onnx(path)
    described = describe_onnx(path)
    assert [(t.name, t.shape) for t in described.inputs] == [("image", ("batch", 3, "height", "width"))]
    assert [(t.name, t.shape[:2]) for t in described.outputs] == [("pafs", ("batch", 38)), ("heatmaps", ("batch", 19))]
    assert all(isinstance(side, str) for t in described.outputs for side in t.shape[2:])
    audit = audit_placement(path)
    assert (audit.int8_mac_share, audit.float_operators) == (1.0, ())
    assert path.stat().st_size < 3.6e6 < 13e6 < files.model.stat().st_size
    assert _initializer_types(onnx.load(path), 600) == {TensorProto.INT8}
    facts = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert (json.loads(facts["hpe.input_size"]), facts["hpe.codec"]) == ([64, 48], "paf")
    simulate = load_quantsim(config, recipe, *_paths(files), "cpu")
    run = onnx_predictor(path, config, threads=1)
    step = _output_step(onnx.load(path))
    for images in tiny.both_orientations(3, config, seed=7):
        maps = joined(run(images))
        assert maps.shape == (3, 57, images.shape[2] // 8, images.shape[3] // 8)
        np.testing.assert_allclose(joined(run(images[:1])), maps[:1])
        # A code that rounds the other way moves codes of the layers behind it; 30 layers leave a few steps.
        difference = np.abs(maps - joined(simulate(images)))
        assert difference.mean() < 2 * step
        assert np.quantile(difference, 0.99) < 8 * step


def test_the_file_says_how_to_use_it(quantized: Quantize, tmp_path: Path) -> None:
    files = quantized(MOBILENET, MIN_MAX)
    model = onnx.load(export_onnx(MOBILENET, MIN_MAX, *_paths(files), tmp_path))
    facts = {p.key: p.value for p in model.metadata_props}
    assert facts["producer"].startswith("aimet-torch")
    assert json.loads(facts["hpe.input_size"]) == [64, 64]
    assert json.loads(facts["hpe.mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(facts["hpe.joints"])[0] == "nose"
    assert QuantizationRecipe.model_validate_json(facts["hpe.recipe"]) == MIN_MAX
    assert facts["hpe.codec"] == "heatmap"
    assert "hpe.channel_order" not in facts


def _paths(files: QuantizedFiles) -> tuple[Path, Path]:
    return files.model, files.encodings


ONNX_CASES = {
    "nchw": (tiny.onnx_config(), MIN_MAX),
    "nhwc": (tiny.onnx_config(input_layout="nhwc", output_layout="nhwc"), MIN_MAX),
    "per-tensor": (tiny.onnx_config(), QuantizationRecipe(scheme="min_max", granularity="per_tensor")),
    "equalized": (tiny.onnx_config(), QuantizationRecipe(scheme="min_max", cross_layer_equalization=True)),
    "full-range": (tiny.onnx_config(), QuantizationRecipe(scheme="min_max", saturation_free=False)),
}


@pytest.mark.parametrize(("config", "recipe"), ONNX_CASES.values(), ids=ONNX_CASES)
def test_users_network_keeps_its_interface_and_agrees_with_quantsim(
    config: ModelConfig, recipe: QuantizationRecipe, quantized: Quantize, tmp_path: Path
) -> None:
    files = quantized(config, recipe)
    path = export_onnx(config, recipe, *_paths(files), tmp_path)
    check_onnx(path)
    model, float_model = onnx.load(path), onnx.load(files.model)
    assert not [n for n in float_model.graph.node if n.op_type == "BatchNormalization"]
    assert [str(i) for i in model.graph.input] == [str(i) for i in float_model.graph.input]
    assert [o.name for o in model.graph.output] == ["heatmaps"]
    assert not [n for n in model.graph.node if n.op_type == "Clip"]
    images = tiny.smooth_images(1, config, seed=9)
    simulated = load_quantsim(config, recipe, *_paths(files), "cpu")(images)["heatmaps"]
    shown = images.transpose(0, 2, 3, 1) if config.input_layout == "nhwc" else images
    # Integer kernels may clip what full-range weights give (tests/integration/test_saturation.py); float ones do not.
    heatmaps = _run(path, shown, optimized=recipe.saturation_free)
    if config.output_layout == "nhwc":
        heatmaps = heatmaps.transpose(0, 3, 1, 2)
    step = _output_step(model)
    # A code inside that rounds the other way may move a code of the output by two.
    difference = np.abs(heatmaps - simulated)
    assert difference.max() <= 2.01 * step
    assert (difference > 0.5 * step).mean() <= 0.002
    assert np.abs(heatmaps - simulated).mean() <= 0.1 * step
    assert audit_placement(path).int8_mac_share > 0.9


def _output_step(model: onnx.ModelProto) -> float:
    """Scale of the quantizer in front of the output."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    node = producer[model.graph.output[0].name]
    while node.op_type != "DequantizeLinear":
        node = producer[node.input[0]]
    return float(constants[node.input[1]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(QuantizationRecipe(scheme="min_max", activation_bw=16), id="w8a16"),
        pytest.param(QuantizationRecipe(scheme="min_max", param_bw=4), id="w4a8"),
    ],
)
def test_other_bit_widths_run_in_float_and_the_audit_says_so(
    recipe: QuantizationRecipe, quantized: Quantize, tmp_path: Path
) -> None:
    files = quantized(MOBILENET, recipe)
    path = export_onnx(MOBILENET, recipe, *_paths(files), tmp_path)
    check_onnx(path)
    assert next(o.version for o in onnx.load(path).opset_import if o.domain == "") == 21
    assert _run(path, tiny.smooth_images(2, MOBILENET)).shape == (2, 17, 16, 16)
    assert audit_placement(path).int8_mac_share == 0


def test_export_does_not_overwrite_what_it_reads(quantized: Quantize) -> None:
    files = quantized(MOBILENET, MIN_MAX)
    with pytest.raises(QuantizationError, match="holds the network"):
        export_onnx(MOBILENET, MIN_MAX, *_paths(files), files.model.parent)


def test_failed_export_leaves_nothing(quantized: Quantize, tmp_path: Path) -> None:
    files = quantized(MOBILENET, MIN_MAX)
    foreign = tmp_path / "foreign.json"
    shutil.copyfile(files.encodings, foreign)
    foreign.write_text(foreign.read_text() + "\n")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(QuantizationError, match="does not belong"):
        export_onnx(MOBILENET, MIN_MAX, files.model, foreign, out)
    assert not list(out.iterdir())


def _clip_graph(*, high: float, scale: float, zero: int, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """Q → DQ → Clip(0, high) → Q → DQ with one scale and zero point."""
    constants: dict[str, Any] = {
        "s": np.array(scale, np.float32),
        "z": np.array(zero, np.uint8),
        "low": np.array(0, np.float32),
        "high": np.array(high, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q1"]),
        helper.make_node("DequantizeLinear", ["q1", "s", "z"], ["d1"]),
        helper.make_node("Clip", ["d1", "low", "high"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "s", "z"], ["d2"]),
        helper.make_node("Neg", ["d2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "clip",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("fields", "operators"),
    [
        pytest.param({"high": 6, "scale": 6 / 255, "zero": 0}, 3, id="codes-end-at-the-bound"),
        pytest.param({"high": 6, "scale": 4 / 255, "zero": 0}, 3, id="codes-end-below-the-bound"),
        pytest.param({"high": 6, "scale": 7 / 255, "zero": 0}, 6, id="codes-reach-beyond-the-bound"),
        pytest.param({"high": 6, "scale": 6 / 255, "zero": 3}, 6, id="codes-reach-below-zero"),
        pytest.param({"high": 6, "scale": 6 / 255, "zero": 0, "outputs": ("y", "c")}, 6, id="clip-is-an-output"),
    ],
)
def test_a_clip_goes_only_where_quantization_does_its_work(
    fields: dict[str, Any], operators: int, tmp_path: Path
) -> None:
    model = _clip_graph(**fields)
    values = np.linspace(-3, 12, 3001).astype(np.float32)
    onnx.save(model, tmp_path / "before.onnx")
    drop_redundant_clips(model)
    merge_repeated_quantizers(model)
    onnx.save(model, tmp_path / "after.onnx")
    assert len(model.graph.node) == operators
    np.testing.assert_array_equal(_run(tmp_path / "after.onnx", values), _run(tmp_path / "before.onnx", values))


def test_a_bias_in_a_foreign_scale_no_longer_keeps_its_layer_in_float(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bias = rng.normal(size=8)
    constants: dict[str, Any] = {
        "s": np.array(0.02, np.float32),
        "z": np.array(128, np.uint8),
        # No kernel clips two products of such codes.
        "w": rng.integers(-64, 65, (8, 4, 3, 3)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.003, 8).astype(np.float32),
        "wz": np.zeros(8, np.int8),
        "b": np.rint(bias / 1e-9).astype(np.int32),
        "bs": np.full(8, 1e-9, np.float32),
        "bz": np.zeros(8, np.int32),
        "ys": np.array(0.1, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0),
        helper.make_node("Conv", ["d", "wd", "bd"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "ys", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "ys", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bias",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(model, before)
    align_biases(model)
    onnx.save(model, after)
    check_onnx(after)
    assert audit_placement(before).int8_mac_share == 0
    assert audit_placement(after).int8_mac_share == 1
    images = rng.normal(size=(1, 4, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(_run(after, images), _run(before, images), atol=0.101)
    assert "b" not in {t.name for t in model.graph.initializer}


@pytest.mark.parametrize("zero", [0, 77, 255])
def test_signed_weights_compute_the_same_as_unsigned_ones(zero: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "s": np.array(0.02, np.float32),
        "z": np.array(128, np.uint8),
        # Less 128 they are codes of which no kernel clips two products.
        "w": rng.integers(64, 193, (8, 4, 3, 3)).astype(np.uint8),
        "ws": np.array(0.002, np.float32),
        "wz": np.array(zero, np.uint8),
        "ys": np.array(0.1, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("Conv", ["d", "wd"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "ys", "z"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "ys", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "weights",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    onnx.save(model, before)
    sign_weights(model)
    onnx.save(model, after)
    check_onnx(after)
    assert _initializer_types(model, 200) == {TensorProto.INT8}
    # Activations keep their unsigned codes.
    assert {t.name: t.data_type for t in model.graph.initializer}["z"] == TensorProto.UINT8
    assert audit_placement(after).int8_mac_share == 1
    images = rng.normal(size=(1, 4, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(_run(after, images), _run(before, images))


def _older(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 12


def _dangling(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nothing"


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(_older, "has opset 12", id="opset"),
        pytest.param(_dangling, "is not valid ONNX", id="dangling-input"),
        pytest.param(
            _external, "keeps 1 of its tensors in other files, such as .* in .weights.bin", id="external-data"
        ),
    ],
)
def test_a_file_that_must_not_ship_is_refused(
    damage: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    model = tiny.pose_onnx()
    damage(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(QuantizationError, match=message):
        check_onnx(path)
