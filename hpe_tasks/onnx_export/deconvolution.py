"""Sub-pixel decomposition: transposed convolutions of kernel 4, stride 2 and padding 1 as four convolutions.

onnxruntime's CPU provider has no integer kernel for transposed convolutions. Of the 4×4 taps of such a layer each
output pixel sees 2×2, and which ones depends on whether its row and its column are even or odd. Phase (a, b) of the
output, rows a, a+2, … and columns b, b+2, …, is therefore an ordinary 2×2 convolution of the input. The phases only
need to be moved to their places. Products and sums stay the same, and codes, scales and zero points keep their values.

onnxruntime's integer convolutions keep the channels of a pixel together (N×H×W×C). In that layout the columns of two
phases interleave by a concatenation along the channels, and rows by one along the width, each followed by a Reshape
that moves nothing; the graph says it so, and the transpositions around it meet those around the convolutions and
cancel. For floats, and where the size is not known, DepthToSpace does it, which transposes what it is given and what
it gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hpe_tasks.models.onnx_graph import attributes_of
from hpe_tasks.onnx_export.graph import remove_unused
from hpe_tasks.onnx_runtime.kernel_model import PHASE_TAPS

_PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Parity of the output's row and column, in the order in which both ways of moving them take the phases."""

_ACTIVATIONS = {"Relu", "Clip"}


def split_deconvolutions(model: onnx.ModelProto) -> None:
    """Rewrite every 4×4 ConvTranspose of stride 2 and padding 1 that is dense or depthwise; leave all others.

    An activation and an 8-bit quantization of the result move into the phases, so that codes are what is concatenated
    and moved.
    """
    graph = model.graph
    layers = [node for node in graph.node if node.op_type == "ConvTranspose"]
    sizes = _static_sizes(model) if layers else {}
    for node in layers:
        weight = _find_weight(graph, node)
        if weight is not None and _doubles_its_input(node, sizes):
            _split(graph, node, weight, sizes.get(node.input[0]))
            remove_unused(graph)


@dataclass(frozen=True)
class _Weight:
    """Constant taps C_in × C_out/group × 4 × 4: codes with the node that dequantizes them, or floats."""

    taps: np.ndarray
    quantized: onnx.NodeProto | None
    depthwise: bool


def _find_weight(graph: onnx.GraphProto, node: onnx.NodeProto) -> _Weight | None:
    tensors = {t.name: t for t in graph.initializer}
    producer = {name: other for other in graph.node for name in other.output}

    def behind_identities(name: str) -> str:
        # torch exports equal tensors once, and Identity nodes for the others.
        while (at := producer.get(name)) is not None and at.op_type == "Identity":
            name = at.input[0]
        return name

    name = behind_identities(node.input[1])
    quantized = producer.get(name)
    if quantized is not None:
        if quantized.op_type != "DequantizeLinear":
            return None
        name = behind_identities(quantized.input[0])
    stored = tensors.get(name)
    if stored is None or list(stored.dims[2:]) != [4, 4]:
        return None
    group = attributes_of(node).get("group", 1)
    depthwise = group > 1 and list(stored.dims[:2]) == [group, 1]
    if group > 1 and not depthwise:
        return None
    # Output channels are axis 1 of a dense transposed kernel, and axis 0 of every other.
    if quantized is not None and not _scaled_along(quantized, tensors, {None, 0 if depthwise else 1}):
        return None
    return _Weight(numpy_helper.to_array(stored), quantized, depthwise)


def _scaled_along(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto], axes: set[int | None]) -> bool:
    """Whether a quantizer of a tensor of rank 4 has constant scales along one of `axes`; None is one for all values."""
    scale = tensors.get(node.input[1])
    attributes = attributes_of(node)
    if scale is None or len(scale.dims) > 1 or attributes.get("block_size", 0):
        return False
    return (None if math.prod(scale.dims) == 1 else attributes.get("axis", 1) % 4) in axes


def _doubles_its_input(node: onnx.NodeProto, sizes: dict[str, tuple[int, ...]]) -> bool:
    """Whether stride is 2 and padding 1 on all sides, in whichever of ONNX's ways that is said."""
    attributes = attributes_of(node)
    if (
        attributes.get("strides") != [2, 2]
        or attributes.get("dilations", [1, 1]) != [1, 1]
        or any(attributes.get("output_padding", []))
    ):
        return False
    wanted = attributes.get("output_shape")
    if wanted:
        # Padding is then whatever gives this size: 1 on each side exactly when both sides double.
        size = sizes.get(node.input[0])
        return size is not None and list(wanted[-2:]) == [2 * side for side in size]
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto in {b"SAME_UPPER", b"SAME_LOWER"}:
        return True
    return auto == b"NOTSET" and attributes.get("pads") == [1, 1, 1, 1]


def _static_sizes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Height and width of every tensor N×C×H×W that has fixed ones."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {}
    for tensor in (*graph.input, *graph.value_info):
        dims = tensor.type.tensor_type.shape.dim
        if len(dims) == 4 and all(dim.dim_value > 0 for dim in dims[2:]):
            sizes[tensor.name] = tuple(dim.dim_value for dim in dims[2:])
    return sizes


def _split(graph: onnx.GraphProto, node: onnx.NodeProto, weight: _Weight, size: tuple[int, ...] | None) -> None:
    tail = _moved_along(graph, node)
    result = (tail or [node])[-1].output[0]
    added, phases = [], []
    for a, b in _PHASES:
        name = f"{node.output[0]}_phase{a}{b}"
        taps = weight.taps[:, :, list(PHASE_TAPS[a])][:, :, :, list(PHASE_TAPS[b])]
        if not weight.depthwise:
            taps = taps.swapaxes(0, 1)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(taps), f"{name}_weight"))
        kernel = f"{name}_weight"
        if weight.quantized is not None:
            dequantize = _copy(weight.quantized, f"{name}_weight_qdq", kernel)
            _set_attribute(dequantize, "axis", 0)
            added.append(dequantize)
            kernel = dequantize.output[0]
        layer = helper.make_node(
            "Conv",
            [node.input[0], kernel, *node.input[2:]],
            [name],
            name=name,
            kernel_shape=[2, 2],
            strides=[1, 1],
            dilations=[1, 1],
            pads=[1 - a, 1 - b, a, b],
            group=len(weight.taps) if weight.depthwise else 1,
        )
        added.append(layer)
        for step in tail:
            added.append(_copy(step, f"{step.output[0]}_phase{a}{b}", added[-1].output[0]))
        phases.append(added[-1].output[0])
    if size is not None and tail and tail[-1].op_type == "QuantizeLinear":
        channels = weight.taps.shape[0 if weight.depthwise else 1]
        added += _interleaved(graph, phases, result, (*size, channels))
    else:
        joined = f"{result}_phases"
        added.append(helper.make_node("Concat", phases, [joined], name=joined, axis=1))
        added.append(helper.make_node("DepthToSpace", [joined], [result], name=result, blocksize=2, mode="DCR"))
    # What the last of the replaced nodes needs, the new ones need as well.
    place = list(graph.node).index((tail or [node])[-1])
    for old in (node, *tail):
        graph.node.remove(old)
    for offset, new in enumerate(added):
        graph.node.insert(place - len(tail) + offset, new)


def _interleaved(
    graph: onnx.GraphProto, phases: list[str], result: str, size: tuple[int, int, int]
) -> list[onnx.NodeProto]:
    """Nodes that interleave four phases N×C×H×W, each of `size` (H, W, C), to `result` N×C×2H×2W."""
    height, width, channels = size
    nodes = []

    def moved(source: str, name: str, order: list[int]) -> str:
        nodes.append(helper.make_node("Transpose", [source], [name], name=name, perm=order))
        return name

    def joined(sources: list[str], name: str, axis: int, rows: int) -> str:
        shape = f"{name}_shape"
        # The batch stays as it is.
        graph.initializer.append(
            numpy_helper.from_array(np.array([0, rows, 2 * width, channels], dtype=np.int64), shape)
        )
        nodes.append(helper.make_node("Concat", sources, [f"{name}_parts"], name=f"{name}_parts", axis=axis))
        nodes.append(helper.make_node("Reshape", [f"{name}_parts", shape], [name], name=name))
        return name

    last = [moved(phase, f"{phase}_nhwc", [0, 2, 3, 1]) for phase in phases]
    rows = [joined(last[:2], f"{result}_even_rows", 3, height), joined(last[2:], f"{result}_odd_rows", 3, height)]
    moved(joined(rows, f"{result}_nhwc", 2, 2 * height), result, [0, 3, 1, 2])
    return nodes


def _moved_along(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The activation and the 8-bit quantization behind a layer: what treats all pixels of a channel alike."""
    tensors = {t.name: t for t in graph.initializer}
    outputs = {o.name for o in graph.output}
    tail: list[onnx.NodeProto] = []
    last = node
    while last.output[0] not in outputs:
        consumers = [other for other in graph.node if last.output[0] in other.input]
        if len(consumers) != 1:
            break
        last = consumers[0]
        if last.op_type == "QuantizeLinear":
            zero = tensors.get(last.input[2]) if len(last.input) > 2 else None
            # DepthToSpace has no kernel for 16-bit codes, and a phase has half of the rows and columns.
            eight_bits = zero is not None and zero.data_type in {onnx.TensorProto.UINT8, onnx.TensorProto.INT8}
            if eight_bits and _scaled_along(last, tensors, {None, 0, 1}):
                tail.append(last)
            break
        if last.op_type not in _ACTIVATIONS:
            break
        tail.append(last)
    return tail


def _copy(node: onnx.NodeProto, name: str, source: str) -> onnx.NodeProto:
    """The same operation on another tensor."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = copy.output[0] = name
    copy.input[0] = source
    return copy


def _set_attribute(node: onnx.NodeProto, name: str, value: int) -> None:
    for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))
