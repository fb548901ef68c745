"""A small network whose layers all run in int8, quantized by onnxruntime's own tool: no AIMET, a second each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

SHAPE = (1, 3, 32, 24)


class _Images:
    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._batches = iter([{"input": generator.standard_normal(SHAPE, dtype=np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def float_onnx(path: Path, seed: int = 0) -> Path:
    """Two convolutions, one of them depthwise, in float."""
    generator = np.random.default_rng(seed)
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 1, 3, 3), "w3": (5, 16, 1, 1)}
    weights = [
        numpy_helper.from_array(generator.standard_normal(shape, dtype=np.float32) * 0.3, name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1], group=16),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "w3"], ["heatmaps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, (1, 5, *SHAPE[2:]))],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def int8_onnx(path: Path, seed: int = 0) -> Path:
    """The same in int8, with QuantizeLinear and DequantizeLinear around every layer."""
    quantize_static(
        float_onnx(path.with_suffix(".float.onnx"), seed),
        path,
        _Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path
