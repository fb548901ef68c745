"""Proof from a file's weights that no int8 kernel of onnxruntime can clip a sum, whatever the image.

Where that holds, the file computes the same on every processor, up to the rounding of single codes. It is read from the
codes alone: no machine, no calibration image and no measurement is part of it (`hpe_tasks.onnx_runtime.kernel_model`).
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

from hpe_tasks.models.onnx_graph import attributes_of
from hpe_tasks.onnx_runtime.kernel_model import arm64_margin, kernel_order, x86_margin
from hpe_tasks.records.execution import FamilyProof, KernelProof
from hpe_tasks.storage.files import sha256_file

_LAYERS = {"Conv", "MatMul", "Gemm"}
_PRODUCTS = {"MatMul", "Gemm"}
_STANDARD = {"", "ai.onnx"}
_EIGHT_BITS = {TensorProto.INT8, TensorProto.UINT8}
_WIDE = {TensorProto.INT16, TensorProto.UINT16, TensorProto.INT32}
# Standard operators that read a dequantized constant and multiply no codes with it.
_NO_PRODUCTS = {
    "Add", "Clip", "Concat", "Div", "Expand", "Gather", "Identity", "Max", "Min", "Mul", "Pad", "PRelu",
    "QuantizeLinear", "Reshape", "Resize", "Slice", "Squeeze", "Sub", "Sum", "Transpose", "Unsqueeze", "Where",
    # The CPU provider has no integer kernel for these: their weights are floats again.
    "ConvTranspose", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
}  # fmt: skip
# Standard operators that multiply codes themselves.
_INTEGER_OPERATORS = {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
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

    A layer whose data cannot come from codes of 8 bits runs in float, has no sums of codes and needs no proof. A layer
    that the proof does not know counts as unproved.

    Args:
        path: An ONNX file with quantized weights as constants, as `export_onnx` writes it.
    """
    layers = tuple(_layers(onnx.load(path)))
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


@dataclass(frozen=True)
class _Graph:
    """Constants by name, and the node that makes each other tensor."""

    tensors: dict[str, onnx.TensorProto]
    producer: dict[str, onnx.NodeProto]

    def constant_codes(self, name: str) -> onnx.TensorProto | None:
        """The constant that a tensor is dequantized from, if it is."""
        node = self.producer.get(self._behind_identities(name))
        if node is None or node.op_type != "DequantizeLinear":
            return None
        return self.tensors.get(self._behind_identities(node.input[0]))

    def dequantized_types(self, name: str) -> set[int | None]:
        """Types of all codes that a tensor may be made of before the next layer; None for one that is not known.

        onnxruntime moves conversions across operators that only move data, and drops operators that do nothing, so any
        codes behind a tensor may become the layer's own.
        """
        found: set[int | None] = set()
        seen, waiting = set(), [name]
        while waiting:
            node = self.producer.get(waiting.pop())
            if node is None or id(node) in seen or node.op_type in {*_LAYERS, "ConvTranspose"}:
                continue
            seen.add(id(node))
            if node.op_type == "DequantizeLinear":
                found.add(self._code_type(node))
            else:
                waiting.extend(node.input)
        return found

    def _code_type(self, node: onnx.NodeProto) -> int | None:
        for given in (node.input[2] if len(node.input) > 2 else "", node.input[0]):
            tensor = self.tensors.get(self._behind_identities(given))
            if tensor is not None:
                return int(tensor.data_type)
        made = self.producer.get(self._behind_identities(node.input[0]))
        if made is not None and made.op_type == "QuantizeLinear":
            if len(made.input) < 3 and not made.attribute:
                return int(TensorProto.UINT8)
            zero = self.tensors.get(self._behind_identities(made.input[2])) if len(made.input) > 2 else None
            return None if zero is None else int(zero.data_type)
        return None

    def _behind_identities(self, name: str) -> str:
        while (node := self.producer.get(name)) is not None and node.op_type == "Identity":
            name = node.input[0]
        return name


def _layers(model: onnx.ModelProto) -> Iterator[_Layer]:
    nodes = model.graph.node
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in nodes:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    graph = _Graph(tensors, {name: node for node in nodes for name in node.output})
    for function in model.functions:
        yield _Layer(f"function {function.name}", None, reason="functions of the file's own are not known to the proof")
    for node in nodes:
        name = f"{node.op_type} {node.name or node.output[0]}"
        if node.domain not in _STANDARD:
            yield _Layer(name, None, reason=f"operators of {node.domain} are not known to the proof")
        elif node.op_type in _INTEGER_OPERATORS:
            yield _Layer(name, None, reason=f"the sums of {node.op_type} are not known to the proof")
        elif any(a.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS} for a in node.attribute):
            yield _Layer(name, None, reason=f"{node.op_type} holds a graph of its own")
        elif node.op_type in _LAYERS:
            yield from _multiplied(node, name, graph)
        elif node.op_type not in {*_NO_PRODUCTS, "DequantizeLinear", "Constant"} and _reads_codes(node, graph):
            yield _Layer(name, None, reason=f"quantized constants of {node.op_type} are not known to the proof")


def _reads_codes(node: onnx.NodeProto, graph: _Graph) -> bool:
    """Whether a node is given constants that were dequantized from few bits."""
    constants = [graph.constant_codes(name) for name in node.input]
    return any(tensor is not None and tensor.data_type not in _WIDE for tensor in constants)


def _multiplied(node: onnx.NodeProto, name: str, graph: _Graph) -> Iterator[_Layer]:
    """What a convolution or a product with a matrix multiplies, unless it does so in float."""
    data = graph.dequantized_types(node.input[0])
    weight, computed = graph.constant_codes(node.input[1]), graph.dequantized_types(node.input[1])
    if not (data | computed) - _WIDE or (weight is None and not computed):
        return  # no codes of 8 bits, or float weights: no integer kernel takes it
    if weight is None:
        yield _Layer(name, None, reason="its weights are computed")
    elif not data - _WIDE and weight.data_type in _EIGHT_BITS:
        return  # data in float or of 16 bits
    elif data - _WIDE != {TensorProto.UINT8} or weight.data_type != TensorProto.INT8:
        yield _Layer(name, None, reason="the proof is of unsigned activations and signed weights of 8 bits")
    else:
        yield _known(node, name, numpy_helper.to_array(weight))


def _known(node: onnx.NodeProto, name: str, values: NDArray[Any]) -> _Layer:
    attributes = attributes_of(node)
    if node.op_type in _PRODUCTS:
        if values.ndim != 2 or attributes.get("transA", 0):
            return _Layer(name, None, reason="only products with a matrix of weights are known to the proof")
        return _Layer(name, values if attributes.get("transB", 0) else values.T)
    groups = attributes.get("group", 1)
    return _Layer(name, kernel_order(values), depthwise=1 < groups == len(values) and values.shape[1] == 1)
