"""Proof from a file's weights that no int8 kernel of onnxruntime can clip a sum, whatever the image.

Where that holds, the file computes the same on every processor, up to the rounding of single codes. It is read from the
codes alone: no machine, no calibration image and no measurement is part of it (`hpe_tasks.kernel_model`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from hpe_tasks.kernel_model import arm64_margin, kernel_order, x86_margin
from hpe_tasks.results import FamilyProof, KernelProof
from hpe_tasks.workspace import sha256_file

_CODES = {TensorProto.INT8, TensorProto.UINT8}
_PRODUCTS = {"MatMul", "Gemm"}
# The data that onnxruntime moves or chooses without arithmetic before it multiplies.
_MOVES = {
    "MaxPool",
    "Reshape",
    "Transpose",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Identity",
    "DepthToSpace",
    "SpaceToDepth",
}
# What reads a dequantized constant and multiplies no codes with it.
_NO_PRODUCTS = {
    "Add", "Clip", "Concat", "Div", "Expand", "Gather", "Identity", "Max", "Min", "Mul", "Pad", "PRelu",
    "QuantizeLinear", "Reshape", "Resize", "Slice", "Squeeze", "Sub", "Sum", "Transpose", "Unsqueeze", "Where",
    # The CPU provider has no integer kernel for these: their weights are floats again.
    "ConvTranspose", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
}  # fmt: skip
# Multiplies codes in operators of its own, whose kernels the proof does not know.
_INTEGER_OPERATORS = {
    "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm", "QAttention", "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat", "DynamicQuantizeLSTM", "QLinearGlobalAveragePool", "QLinearAveragePool", "MatMulNBits",
    "QMoE",
}  # fmt: skip
_SHOWN = 20


@dataclass(frozen=True)
class _Layer:
    """A layer whose weights are codes.

    Attributes:
        rows: The codes in kernel order, C_out × K; None where the proof does not know what the layer's kernels add.
        depthwise: Whether each output channel sees one input channel, and each input channel makes one output channel.
        reason: Why there are no rows.
    """

    name: str
    rows: NDArray[Any] | None
    depthwise: bool = False
    reason: str = ""


def prove_kernels(path: Path) -> KernelProof:
    """Prove from its codes what an exported file cannot do; what cannot be proved is named.

    A layer that onnxruntime runs in float, because its input is not quantized to 8 bits, has no sums of codes and needs
    no proof. A layer that the proof does not know counts as unproved.

    Args:
        path: An ONNX file with quantized weights as constants, as `export_onnx` writes it.
    """
    layers = tuple(_layers(onnx.load(path).graph))
    return KernelProof(
        model_sha256=sha256_file(path),
        layers=len(layers),
        channels=sum(len(layer.rows) for layer in layers if layer.rows is not None),
        x86_64=_family(layers, lambda rows, depthwise: x86_margin(rows, depthwise=depthwise)),
        arm64=_family(layers, lambda rows, _: arm64_margin(rows)),
    )


def _family(layers: Iterable[_Layer], margin: Callable[[NDArray[Any], bool], NDArray[np.int64]]) -> FamilyProof:
    smallest: int | None = None
    tightest, unproved = None, []
    for layer in layers:
        if layer.rows is None:
            unproved.append(f"{layer.name}: {layer.reason}")
            continue
        margins = margin(layer.rows, layer.depthwise)
        least = int(margins.min())
        if smallest is None or least < smallest:
            smallest, tightest = least, layer.name
        if least < 0:
            unproved.append(f"{layer.name}: {int((margins < 0).sum())} of {len(margins)} channels can clip")
    shown = unproved[:_SHOWN]
    return FamilyProof(
        unproved_layers=len(unproved), unproved=tuple(shown), smallest_margin=smallest, tightest_layer=tightest
    )


def _layers(graph: onnx.GraphProto) -> Iterator[_Layer]:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    producer = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        name = f"{node.op_type} {node.name or node.output[0]}"
        if node.op_type in _INTEGER_OPERATORS:
            yield _Layer(name, None, reason=f"the sums of {node.op_type} are not known")
        elif any(
            attribute.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS} for attribute in node.attribute
        ):
            yield _Layer(name, None, reason=f"{node.op_type} holds a graph of its own")
        elif node.op_type not in {*_NO_PRODUCTS, "DequantizeLinear"}:
            yield from _weighted(node, name, tensors, producer)


def _weighted(
    node: onnx.NodeProto, name: str, tensors: dict[str, onnx.TensorProto], producer: dict[str, onnx.NodeProto]
) -> Iterator[_Layer]:
    """The layer of a node that multiplies dequantized constants, if it does."""
    standard = node.domain in {"", "ai.onnx"}
    codes = [_codes(given, tensors, producer) for given in node.input]
    constant = [index for index, tensor in enumerate(codes) if tensor is not None and tensor.data_type in _CODES]
    if not constant:
        if standard and node.op_type in {"Conv", *_PRODUCTS} and _is_quantized(node.input[1], tensors, producer):
            yield _Layer(name, None, reason="its weights are computed")
        return
    if constant != [1] or not standard or node.op_type not in {"Conv", *_PRODUCTS}:
        yield _Layer(name, None, reason=f"quantized constants of {node.op_type} are not known to the proof")
        return
    data, weight = _data_type(node.input[0], tensors, producer), codes[1]
    if data is None or data not in _CODES:
        # Float or 16-bit data: no integer kernel takes it.
        return
    if weight is None or data != TensorProto.UINT8 or weight.data_type != TensorProto.INT8:
        yield _Layer(name, None, reason="the proof is of unsigned activations and signed weights")
        return
    values = numpy_helper.to_array(weight)
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type in _PRODUCTS:
        if values.ndim != 2 or attributes.get("transA", 0):
            yield _Layer(name, None, reason="only products with a matrix of weights are known to the proof")
        else:
            yield _Layer(name, values if attributes.get("transB", 0) else values.T)
        return
    groups = attributes.get("group", 1)
    yield _Layer(name, kernel_order(values), depthwise=1 < groups == len(values) and values.shape[1] == 1)


def _codes(
    name: str, tensors: dict[str, onnx.TensorProto], producer: dict[str, onnx.NodeProto]
) -> onnx.TensorProto | None:
    """The constant codes behind an input, through whatever only moves them."""
    node = producer.get(name)
    while node is not None and node.op_type == "Identity":
        name, node = node.input[0], producer.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear":
        return None
    name = node.input[0]
    while (behind := producer.get(name)) is not None and behind.op_type == "Identity":
        name = behind.input[0]
    return tensors.get(name)


def _is_quantized(name: str, tensors: dict[str, onnx.TensorProto], producer: dict[str, onnx.NodeProto]) -> bool:
    return _data_type(name, tensors, producer) in _CODES


def _data_type(name: str, tensors: dict[str, onnx.TensorProto], producer: dict[str, onnx.NodeProto]) -> int | None:
    """Type of the codes that a layer's data was dequantized from; None for data that stays float."""
    node = producer.get(name)
    while node is not None and node.op_type in _MOVES:
        node = producer.get(node.input[0])
    if node is None or node.op_type != "DequantizeLinear":
        return None
    zero = tensors.get(node.input[2]) if len(node.input) > 2 else None
    return TensorProto.UINT8 if zero is None else zero.data_type
