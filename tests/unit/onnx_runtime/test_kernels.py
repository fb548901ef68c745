from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.errors import CheckpointError, QuantizationError
from hpe_tasks.onnx_export import export_onnx
from hpe_tasks.onnx_runtime.kernels import compare_kernels
from hpe_tasks.onnx_runtime.session import open_session
from hpe_tasks.quantization import quantize_model
from support import tiny_networks as tiny

CONFIG = ModelConfig(checkpoint="none", input_width=32, input_height=32)
STEP = 0.02
DROPPED = 0.05


def images(count: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 4, (count, 3, 32, 32)).astype(np.float32)


def save(path: Path, middle: list[onnx.NodeProto], shape: tuple[int | str, ...] = ("n", 3, 32, 32)) -> Path:
    """x → codes → what `middle` makes of `value` → `codes_2` → y."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["value"]),
        *middle,
        helper.make_node("QuantizeLinear", ["changed", "step", "zero"], ["codes_2"]),
        helper.make_node("DequantizeLinear", ["codes_2", "step", "zero"], ["y"]),
    ]
    constants: dict[str, Any] = {"step": np.float32(STEP), "zero": np.uint8(20), "nothing": np.float32(0)}
    constants |= {"share": np.float32(DROPPED), "on": np.bool_(True)}
    constants |= {"steps": np.full(3, STEP, np.float32), "zeros": np.array([20, 30, 0], np.uint8)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "config", [tiny.mobilenet_config(), tiny.aimet_config()], ids=["crops", "whole images of both orientations"]
)
def test_int8_kernels_of_an_exported_network_compute_what_the_file_says(config: ModelConfig, tmp_path: Path) -> None:
    batches = [*tiny.both_orientations(3, config), tiny.smooth_images(3, config, seed=1)][:2]
    for name in ("quantsim", "exported"):
        (tmp_path / name).mkdir()
    recipe = QuantizationRecipe(scheme="min_max")
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", config)
    files = quantize_model(config, recipe, checkpoint, batches, tmp_path / "quantsim", "cpu")
    path = export_onnx(config, recipe, files.model, files.encodings, tmp_path / "exported")

    agreement = compare_kernels(path, config, batches, num_images=5)
    assert agreement.num_images == 5
    assert agreement.cpu_features == cpu_features()
    assert agreement.sqnr_db is None or agreement.sqnr_db > 45
    assert agreement.max_difference <= 1
    assert (agreement.layer is None) == (agreement.sqnr_db is None)
    assert compare_kernels(path, config, batches, num_images=100).num_images == 6


PER_CHANNEL = [
    helper.make_node("QuantizeLinear", ["value", "steps", "zeros"], ["codes_per_channel"]),
    helper.make_node("DequantizeLinear", ["codes_per_channel", "steps", "zeros"], ["restored"]),
]


@pytest.mark.parametrize("before", [[], PER_CHANNEL], ids=["alone", "behind codes with zero points for each channel"])
def test_a_layer_that_computes_something_else_is_found_and_measured(
    before: list[onnx.NodeProto], tmp_path: Path
) -> None:
    """onnxruntime's optimizer removes a Dropout, also one that is switched on: a real difference of known size."""
    given = "restored" if before else "value"
    dropout = helper.make_node("Dropout", [given, "share", "on"], ["changed"], seed=0)
    path = save(tmp_path / "model.onnx", [*before, dropout])
    agreement = compare_kernels(path, CONFIG, [images()], num_images=4)

    exposed = onnx.load(path)
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("codes", "codes_2"))
    session = open_session(path, exposed.SerializeToString(), optimized=False)
    both = [session.run(["codes", "codes_2"], {"x": image[None]}) for image in images()]
    kept, dropped = np.array(both, np.float64).swapaxes(0, 1)
    assert 0.5 * DROPPED < np.mean((dropped == 20) & (kept > 20)) < 2 * DROPPED
    noise, signal = np.square(kept - dropped).sum(), np.square(dropped - 20).sum()
    assert agreement.layer == "codes_2"
    assert agreement.max_difference == np.abs(kept - dropped).max() > 100
    assert agreement.sqnr_db == pytest.approx(-10 * math.log10(noise / signal), rel=1e-9)


@pytest.mark.parametrize("batch", ["n", 1, 2], ids=["free-batch", "batch-1", "batch-2"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_equal_layers_have_no_ratio(layout: str, batch: int | str, tmp_path: Path) -> None:
    shape = (batch, 32, 32, 3) if layout == "nhwc" else (batch, 3, 32, 32)
    path = save(tmp_path / "model.onnx", [helper.make_node("Relu", ["value"], ["changed"])], shape)
    config = CONFIG.model_copy(update={"input_layout": layout})
    agreement = compare_kernels(path, config, [images()], num_images=3)
    assert (agreement.sqnr_db, agreement.layer, agreement.max_difference) == (None, None, 0)
    assert agreement.num_images == 3


def test_without_images_there_is_no_agreement(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", [helper.make_node("Relu", ["value"], ["changed"])])
    with pytest.raises(QuantizationError, match=r"no image to compare the kernels of model\.onnx on"):
        compare_kernels(path, CONFIG, [], num_images=3)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = onnx.load(save(tmp_path / "model.onnx", [helper.make_node("Relu", ["value"], ["changed"])]))
    model.graph.node[-1].output[0] = "dequantized"
    for operands, result in ((["dequantized", "nothing"], "divided"), (["divided", "nothing"], "y")):
        model.graph.node.append(helper.make_node("Div", operands, [result]))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(QuantizationError, match="output 'y' holds NaN") as caught:
        compare_kernels(tmp_path / "model.onnx", CONFIG, [images()], num_images=3)
    assert caught.value.hint


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    model = onnx.load(save(tmp_path / "model.onnx", [helper.make_node("Relu", ["value"], ["changed"])]))
    model.graph.node[2].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=r"model\.onnx is not a model that onnxruntime runs"):
        compare_kernels(tmp_path / "model.onnx", CONFIG, [images()], num_images=3)
