"""A concatenation has a range of its own, whatever its parts are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.quantization import load_quantsim, onnx_backend, quantize_model
from support import tiny_networks as tiny


def write_staged(path: Path) -> Path:
    """Large features that are joined, then joined with small ones, as stages that hand on their maps do."""
    rng = np.random.default_rng(0)

    def weight(name: str, *dims: int, scale: float) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.uniform(0.2, 1, dims) * scale).astype(np.float32), name)

    def conv(given: str, kernel: str, gives: str, side: int, stride: int = 1) -> onnx.NodeProto:
        pads = [side // 2] * 4
        return helper.make_node(
            "Conv", [given, kernel], [gives], kernel_shape=[side, side], pads=pads, strides=[stride, stride]
        )

    nodes = [
        conv("image", "w1", "a", 3, 2),
        helper.make_node("Relu", ["a"], ["ra"]),
        conv("image", "w2", "b", 3, 2),
        helper.make_node("Relu", ["b"], ["rb"]),
        helper.make_node("Concat", ["ra", "rb"], ["large"], axis=1),
        conv("large", "w3", "c", 1),
        helper.make_node("Relu", ["c"], ["small"]),
        helper.make_node("Concat", ["large", "small"], ["joined"], axis=1),
        conv("joined", "w4", "heatmaps", 1),
    ]
    constants = [
        weight("w1", 4, 3, 3, 3, scale=2.0),
        weight("w2", 4, 3, 3, 3, scale=1.0),
        weight("w3", 4, 8, 1, 1, scale=0.002),
        weight("w4", 5, 12, 1, 1, scale=0.1),
    ]
    graph = helper.make_graph(
        nodes,
        "staged",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 64])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, [1, 5, 16, 32])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("scheme", ["min_max", "tf_enhanced"])
def test_a_concatenation_of_large_and_small_keeps_the_large(scheme: str, tmp_path: Path) -> None:
    config = tiny.onnx_config()
    images = tiny.smooth_images(4, config)
    recipe = QuantizationRecipe.model_validate({"scheme": scheme})
    (out := tmp_path / "out").mkdir()
    files = quantize_model(config, recipe, write_staged(tmp_path / "staged.onnx"), [images], out, "cpu")
    sim = onnx_backend.load_sim(config, recipe, files.model, files.encodings, "cpu")
    high = {name: sim.qc_quantize_op_dict[name].get_encodings()[0].max for name in ("large", "small", "joined")}
    assert high["small"] < 0.1 * high["large"]
    assert high["joined"] > 0.9 * high["large"]
    simulated = load_quantsim(config, recipe, files.model, files.encodings, "cpu")(images)["heatmaps"]
    assert np.isfinite(simulated).all()
