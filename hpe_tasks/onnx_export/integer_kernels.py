"""What keeps onnxruntime from its integer kernels in a quantized graph, taken out without changing a code."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hpe_tasks.onnx_export.graph import constants_of, remove_unused, replace_input


def drop_redundant_clips(model: onnx.ModelProto) -> None:
    """Remove every Clip whose result only feeds a QuantizeLinear that saturates at least as tightly.

    onnxruntime removes a ReLU there by itself, but keeps a ReLU6 whose upper bound differs from the largest code by
    rounding, and then runs it in float between two conversions.
    """
    graph = model.graph
    constants = constants_of(graph)
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    outputs = {o.name for o in graph.output}
    removed = []
    for node in graph.node:
        if node.op_type != "Clip" or node.output[0] in outputs:
            continue
        quantizers = consumers.get(node.output[0], [])
        if quantizers and all(_saturates_within(q, node, constants) for q in quantizers):
            for quantizer in quantizers:
                quantizer.input[0] = node.input[0]
            removed.append(node)
    for node in removed:
        graph.node.remove(node)


def _saturates_within(quantizer: onnx.NodeProto, clip: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    """Whether quantizing gives the same codes with and without the Clip: both bounds map to the extreme codes."""
    if quantizer.op_type != "QuantizeLinear" or len(quantizer.input) < 3:
        return False
    bounds = [clip.input[i] if len(clip.input) > i else "" for i in (1, 2)]
    if any(name not in constants for name in (*quantizer.input[1:3], *(b for b in bounds if b))):
        return False
    scale, zero = (constants[name] for name in quantizer.input[1:3])
    if scale.size != 1 or not np.issubdtype(zero.dtype, np.integer):
        return False
    codes = np.iinfo(zero.dtype)
    for name, extreme in zip(bounds, (codes.min, codes.max), strict=True):
        if not name:
            continue
        bound = constants[name].astype(np.float32)
        code = np.rint(bound / scale) + int(zero)
        if (extreme == codes.min and code > extreme) or (extreme == codes.max and code < extreme):
            return False
    return True


def merge_repeated_quantizers(model: onnx.ModelProto) -> None:
    """Join quantize-dequantize pairs that follow one another with the same scale and zero point.

    AIMET gives the layer before a Clip the encoding of the Clip, so that dropping the Clip leaves two equal pairs.
    """
    graph = model.graph
    constants = constants_of(graph)
    producer = {name: node for node in graph.node for name in node.output}
    outputs = {o.name for o in graph.output}

    def code(node: onnx.NodeProto) -> tuple[object, ...] | None:
        if len(node.input) < 3 or any(name not in constants for name in node.input[1:3]):
            return None
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        return scale.tobytes(), zero.tobytes(), str(zero.dtype)

    for second in [n for n in graph.node if n.op_type == "DequantizeLinear" and n.output[0] not in outputs]:
        quantize = producer.get(second.input[0])
        first = producer.get(quantize.input[0]) if quantize is not None else None
        if quantize is None or first is None:
            continue
        if (quantize.op_type, first.op_type) != ("QuantizeLinear", "DequantizeLinear"):
            continue
        if code(first) is not None and code(first) == code(quantize) == code(second):
            replace_input(graph, second.output[0], first.output[0])
    remove_unused(graph)


def align_biases(model: onnx.ModelProto) -> None:
    """Store every integer bias in the scale input × weight, the only one that integer kernels can add.

    AIMET loses sight of the input's scale behind a MaxPool and takes another; onnxruntime then runs the layer in float.
    """
    graph = model.graph
    constants = constants_of(graph)
    producer = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in {"Conv", "ConvTranspose", "Gemm"} and len(node.input) > 2]
    for node in layers:
        pairs = [producer.get(name) for name in node.input[:3]]
        if any(pair is None or pair.op_type != "DequantizeLinear" for pair in pairs):
            continue
        scales = [constants[pair.input[1]] for pair in pairs if pair is not None]
        old = pairs[2]
        if old is None or old.input[0] not in constants or constants[old.input[0]].dtype != np.int32:
            continue
        wanted = (scales[0] * scales[1]).astype(np.float32)
        if wanted.shape == scales[2].shape and np.allclose(wanted, scales[2], rtol=1e-4, atol=0):
            continue
        codes = np.rint(constants[old.input[0]].astype(np.float64) * scales[2] / wanted)
        if np.abs(codes).max(initial=0) > np.iinfo(np.int32).max:
            continue
        parts = {"q": codes.astype(np.int32), "scale": wanted, "zero_point": np.zeros(wanted.shape, np.int32)}
        prefix = f"{node.output[0]}_bias"
        graph.initializer.extend(numpy_helper.from_array(value, f"{prefix}_{part}") for part, value in parts.items())
        axis: dict[str, Any] = {"axis": 0} if wanted.ndim else {}
        names = [f"{prefix}_{part}" for part in parts]
        added = helper.make_node("DequantizeLinear", names, [f"{prefix}_qdq"], name=f"{prefix}_dq", **axis)
        graph.node.insert(list(graph.node).index(node), added)
        node.input[2] = added.output[0]
    remove_unused(graph)


def sign_weights(model: onnx.ModelProto) -> None:
    """Store unsigned 8-bit weights as signed ones: 128 less, and 128 less for their zero point.

    The values stay the same. onnxruntime's kernel for signed weights is the one that uses VNNI instructions: measured
    on `aimet_pose`, 105 ms instead of 213 ms of CPU time for an image.
    """
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "DequantizeLinear" and len(n.input) == 3]:
        code, zero = tensors.get(node.input[0]), tensors.get(node.input[2])
        if code is None or zero is None or code.data_type != onnx.TensorProto.UINT8:
            continue
        for tensor, index in ((code, 0), (zero, 2)):
            signed = (numpy_helper.to_array(tensor).astype(np.int16) - 128).astype(np.int8)
            node.input[index] = f"{node.output[0]}_signed_{index}"
            graph.initializer.append(numpy_helper.from_array(signed, node.input[index]))
    remove_unused(graph)
