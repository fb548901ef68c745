"""Activations of an exported graph, which may be left in float or get other codes: which there are, and how.

A graph as AIMET exports it has a pair QuantizeLinear–DequantizeLinear behind every activation. What only moves values
(Reshape, Transpose, …) has a pair of its own with the same scale; it stays or goes with the values that it moves.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from hpe_tasks.onnx_export.graph import remove_unused
from hpe_tasks.quantization.float_activations import Code, code_of

_MACS_OF_A_VALUE = 8
"""A value that is converted and moved in four bytes takes about as long as so many products of an int8 layer."""

_UNSIGNED = {np.dtype(np.uint8): 0, np.dtype(np.uint16): 0, np.dtype(np.int8): 1 << 7, np.dtype(np.int16): 1 << 15}
"""What is added to a code to count from 0."""


@dataclass(frozen=True)
class Activation:
    """An activation, with what only moves its values.

    Attributes:
        tensors: Names in the graph; the first is what the operator gives.
        encodings: What the stored encodings call its quantizers; see `stored_codes` of `hpe_tasks.quantization`.
        operator: The type of the node that computes it; `Input` for the image.
        layer: The name of that node.
        touching: Names of all nodes that give or take it.
        cost: About what float costs, in multiply-accumulates: those of the layers that give or take it, and its values.
    """

    tensors: tuple[str, ...]
    encodings: tuple[str, ...]
    operator: str
    layer: str
    touching: frozenset[str]
    cost: float = 0.0


def activations_of(model: onnx.ModelProto, stored: Mapping[str, Code]) -> tuple[Activation, ...]:
    """Every activation that has an encoding, in the order of the graph.

    Args:
        model: As `hpe_tasks.onnx_export.simulated_graph` gives it.
        stored: As `stored_codes` of `hpe_tasks.quantization` gives them. Quantizers that an exporter has not named
            after their tensors are found by scale and zero point; those that have both in common are one activation.
    """
    pairs, producer = _pairs(model.graph), {name: node for node in model.graph.node for name in node.output}
    by_code: dict[Code, list[str]] = defaultdict(list)
    for name, code in stored.items():
        by_code[code].append(name)
    tensor_of = {name: tensor for tensor, pair in pairs.items() for name in pair.outputs}
    root: dict[str, str] = {}
    names: dict[str, tuple[str, ...]] = {}
    first_with: dict[str, str] = {}
    for tensor, pair in pairs.items():
        node = producer.get(tensor)
        moved = tensor_of.get(node.input[0]) if node is not None and node.op_type in _MOVES else None
        if moved is not None and pairs[moved].code == pair.code:
            root[tensor] = root[moved]
            continue
        own = [name for name in (tensor, *pair.outputs) if name in stored][:1]
        encodings = tuple(own or by_code.get(pair.code, ()))
        shared = next((first_with[name] for name in encodings if name in first_with), None)
        root[tensor] = tensor if shared is None else root[shared]
        if shared is None:
            names[tensor] = encodings
            first_with |= dict.fromkeys(encodings, tensor)
    members: dict[str, list[str]] = defaultdict(list)
    for tensor, head in root.items():
        members[head].append(tensor)
    joined = _joined(model.graph, pairs)
    touching = _touching(model.graph, tensor_of | {tensor: tensor for tensor in pairs}, joined)
    sizes, macs = _work(model, joined)
    found = []
    for head, tensors in members.items():
        if not names[head]:
            continue
        node = producer.get(head)
        operator, layer = ("Input", head) if node is None else joined[_name(node)]
        touched = frozenset(name for tensor in tensors for name in touching[tensor])
        cost = _MACS_OF_A_VALUE * sizes.get(head, 1) + sum(macs[name] for name in touched)
        found.append(Activation(tuple(tensors), names[head], operator, layer, touched, cost))
    return tuple(found)


def with_floats(activations: Sequence[Activation], chosen: Iterable[int]) -> frozenset[int]:
    """The chosen activations and those whose quantization is of no use beside them.

    An operator with one activation in float runs in float. Where that holds for all that give or take an activation,
    to quantize it would only cost accuracy and two conversions.

    Args:
        activations: As `activations_of` gives them.
        chosen: Indices of those to leave float.
    """
    floats = set(chosen)
    while True:
        in_float = {name for index in floats for name in activations[index].touching}
        useless = {
            index
            for index, each in enumerate(activations)
            if index not in floats and each.touching and each.touching <= in_float
        }
        if not useless:
            return frozenset(floats)
        floats |= useless


def leave_float(
    model: onnx.ModelProto, tensors: Iterable[str], biases: Mapping[str, onnx.TensorProto] | None = None
) -> onnx.ModelProto:
    """A copy of the graph without the pairs of quantizers behind these tensors.

    Args:
        model: As `hpe_tasks.onnx_export.simulated_graph` gives it.
        tensors: Members of `Activation.tensors`.
        biases: In float, by name: a layer that is given floats adds its bias in float, where it is known.
    """
    changed = copy.deepcopy(model)
    graph = changed.graph
    pairs = _pairs(graph)
    outputs = {output.name for output in graph.output}
    instead: dict[str, str] = {}
    for tensor in tensors:
        for name in pairs[tensor].outputs:
            instead[name] = tensor
    # A result that was named behind its quantizer is given under that name by the node itself.
    renamed = {tensor: name for name, tensor in instead.items() if name in outputs}
    for node in graph.node:
        for index, name in enumerate(node.input):
            given = name
            while given in instead:
                given = instead[given]
            node.input[index] = renamed.get(given, given)
        for index, name in enumerate(node.output):
            node.output[index] = f"{name}_unused" if instead.get(name) in renamed else renamed.get(name, name)
    _leave_biases_float(graph, biases or {})
    remove_unused(graph)
    return changed


def with_codes(model: onnx.ModelProto, codes: Mapping[str, Code]) -> onnx.ModelProto:
    """A copy of the graph in which these tensors have other scales and zero points.

    Args:
        model: As `hpe_tasks.onnx_export.simulated_graph` gives it; biases follow in `fit_kernels`.
        codes: By tensor, of `Activation.tensors`.
    """
    changed = copy.deepcopy(model)
    graph = changed.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    tensor_of = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in codes}
    for node in graph.node:
        tensor = {"QuantizeLinear": node.input[0], "DequantizeLinear": tensor_of.get(node.input[0])}.get(node.op_type)
        if tensor is None or tensor not in codes:
            continue
        scale, zero = (constants[name] for name in node.input[1:3])
        offset = _UNSIGNED[zero.dtype]
        for index, before, value in ((1, scale, codes[tensor][0]), (2, zero, codes[tensor][1] - offset)):
            name = f"{tensor}_{'scale' if index == 1 else 'zero_point'}_changed"
            if name not in constants:
                constants[name] = np.full(before.shape, value, before.dtype)
                graph.initializer.append(numpy_helper.from_array(constants[name], name))
            node.input[index] = name
    remove_unused(graph)
    return changed


def _leave_biases_float(graph: onnx.GraphProto, biases: Mapping[str, onnx.TensorProto]) -> None:
    producer = {name: node for node in graph.node for name in node.output}
    known = {t.name for t in graph.initializer}
    for node in graph.node:
        if node.op_type not in {"Conv", "ConvTranspose", "Gemm"} or len(node.input) < 3:
            continue
        given, bias = producer.get(node.input[0]), producer.get(node.input[2])
        if bias is None or bias.op_type != "DequantizeLinear":
            continue
        stored = biases.get(bias.input[0].removesuffix("_q"))
        if stored is None or (given is not None and given.op_type == "DequantizeLinear"):
            continue
        if stored.name not in known:
            graph.initializer.append(stored)
            known.add(stored.name)
        node.input[2] = stored.name


@dataclass(frozen=True)
class _QuantizerPair:
    code: Code
    outputs: tuple[str, ...]


def _pairs(graph: onnx.GraphProto) -> dict[str, _QuantizerPair]:
    """What is behind each tensor that is computed and then quantized as a whole."""
    constants = {t.name: t for t in graph.initializer}
    behind: dict[str, list[str]] = defaultdict(list)
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            behind[node.input[0]].append(node.output[0])
    found: dict[str, _QuantizerPair] = {}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants or node.input[0] in found:
            continue
        if not behind[node.output[0]] or any(name not in constants for name in node.input[1:3]):
            continue
        scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        if scale.size == 1 and zero.dtype in _UNSIGNED:
            code = code_of(float(scale.reshape(())), int(zero.reshape(())) + _UNSIGNED[zero.dtype])
            found[node.input[0]] = _QuantizerPair(code, tuple(behind[node.output[0]]))
    return found


_MOVES = {
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Gather", "Expand"),
    *("DepthToSpace", "SpaceToDepth", "MaxPool", "Dropout"),
}
"""Operators whose results are values that they are given."""


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _joined(graph: onnx.GraphProto, pairs: Mapping[str, _QuantizerPair]) -> dict[str, tuple[str, str]]:
    """Types and first name of the nodes that run as one with each node: nothing between them is quantized."""
    producer: dict[str, onnx.NodeProto] = {}
    joined: dict[str, tuple[str, str]] = {}
    for node in graph.node:
        before = next((producer[name] for name in node.input if name in producer and name not in pairs), None)
        operator, layer = ("", _name(node)) if before is None else joined[_name(before)]
        joined[_name(node)] = (f"{operator}+{node.op_type}" if operator else node.op_type, layer)
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear", "Constant"}:
            producer |= dict.fromkeys(node.output, node)
    return joined


def _work(model: onnx.ModelProto, joined: Mapping[str, tuple[str, str]]) -> tuple[dict[str, int], dict[str, int]]:
    """Number of values of each tensor, and multiply-accumulates of the nodes, by the first name; 1 for a free size."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    dims = {
        value.name: [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    sizes = {name: math.prod(each) for name, each in dims.items()}
    macs: dict[str, int] = defaultdict(int)
    for node in graph.node:
        weight = dims.get(node.input[1], []) if len(node.input) > 1 else []
        if node.op_type in {"Conv", "Gemm", "MatMul"} and weight:
            taps = math.prod(weight[1:]) if node.op_type == "Conv" else weight[0]
            macs[joined[_name(node)][1]] += sizes.get(node.output[0], 1) * taps
        elif node.op_type == "ConvTranspose" and weight:
            macs[joined[_name(node)][1]] += sizes.get(node.input[0], 1) * math.prod(weight[1:])
    return sizes, macs


def _touching(
    graph: onnx.GraphProto, tensor_of: Mapping[str, str], joined: Mapping[str, tuple[str, str]]
) -> dict[str, set[str]]:
    """First names of the nodes that give or take each of the tensors, but for quantizers."""
    touching: dict[str, set[str]] = defaultdict(set)
    for node in graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            continue
        for name in (*node.input, *node.output):
            if name in tensor_of:
                touching[tensor_of[name]].add(joined[_name(node)][1])
    return touching
