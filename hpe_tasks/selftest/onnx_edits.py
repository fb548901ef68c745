"""Faults in an exported file: a layer's weights changed, or a quantizer taken out. The rest stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hpe_tasks.errors import QuantizationError
from hpe_tasks.onnx_export.graph import remove_unused, replace_input

Rows = NDArray[np.float64]
"""Weights of a layer, output channel by output channel, in the last column its bias."""


def write(model: onnx.ModelProto, path: Path) -> Path:
    """Write a changed file, checked."""
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def change_output_layer(file: Path, change: Callable[[Rows], Rows], out: Path) -> Path:
    """Change the weights of the layer that gives the output, which stay on the grid of their codes.

    Args:
        file: An exported file; its last layer is a convolution.
        change: Takes and gives the weights in float.
        out: Where the changed file goes.

    Raises:
        QuantizationError: The file has no such layer.
    """
    model = onnx.load(file)
    graph = model.graph
    layer = _output_layer(graph)
    weight, bias = (_Codes.read(graph, name) for name in (layer.input[1], layer.input[2]))
    flat = weight.values.reshape(len(weight.values), -1)
    changed = change(np.column_stack([flat, bias.values]))
    weight.write(changed[:, :-1].reshape(weight.values.shape))
    bias.write(changed[:, -1])
    return write(model, out)


def leave_activation_float(file: Path, out: Path) -> Path:
    """Take out one quantizer, in front of the convolution with the most arithmetic that has one of its own.

    Raises:
        QuantizationError: The file has no convolution behind a quantizer.
    """
    model = onnx.load(file)
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    for layer, _ in sorted(_convolutions(model), key=lambda pair: -pair[1]):
        dequantize = makers.get(layer.input[0])
        quantize = None if dequantize is None else makers.get(dequantize.input[0])
        if dequantize is not None and quantize is not None and quantize.op_type == "QuantizeLinear":
            replace_input(graph, dequantize.output[0], quantize.input[0])
            remove_unused(graph)
            return write(model, out)
    raise QuantizationError(f"{file.name} has no convolution behind a quantizer.")


class _Codes:
    """A tensor of integers behind a DequantizeLinear, as numbers."""

    def __init__(self, tensor: onnx.TensorProto, scale: Rows, zero: Rows) -> None:
        self._tensor = tensor
        codes = numpy_helper.to_array(tensor)
        self._kind, shape = codes.dtype, (-1,) + (1,) * (codes.ndim - 1)
        self._scale, self._zero = scale.reshape(shape), zero.reshape(shape)
        self.values: Rows = (codes - self._zero) * self._scale

    @classmethod
    def read(cls, graph: onnx.GraphProto, name: str) -> _Codes:
        node = next((node for node in graph.node if name in node.output), None)
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        if node is None or node.op_type != "DequantizeLinear" or any(one not in tensors for one in node.input):
            raise QuantizationError(f"{name} is not made of stored codes.")
        numbers = [numpy_helper.to_array(tensors[one]).astype(np.float64) for one in node.input[1:]]
        return cls(tensors[node.input[0]], numbers[0], numbers[1] if len(numbers) > 1 else np.zeros(1))

    def write(self, values: Rows) -> None:
        bounds = np.iinfo(self._kind)
        codes = np.clip(np.rint(values / self._scale + self._zero), bounds.min, bounds.max)
        self._tensor.CopyFrom(numpy_helper.from_array(codes.astype(self._kind), self._tensor.name))


def _output_layer(graph: onnx.GraphProto) -> onnx.NodeProto:
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        node = makers.get(node.input[0])
    if node is None or node.op_type != "Conv" or len(node.input) != 3:
        raise QuantizationError("The last layer of the exported file is not a convolution with a bias.")
    return node


def _convolutions(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, int]]:
    """Convolutions whose shapes are known, each with its multiply-accumulates for one image."""
    shaped = onnx.shape_inference.infer_shapes(model)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*shaped.graph.value_info, *shaped.graph.output)
    }
    found = []
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in shapes and node.output[0] in shapes:
            macs = np.prod(shapes[node.output[0]][1:]) * np.prod(shapes[node.input[1]][1:])
            found.append((node, int(macs)))
    if not found:
        raise QuantizationError("The exported file has no convolution.")
    return found
