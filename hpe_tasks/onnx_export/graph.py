"""Small edits of ONNX graphs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def constants_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Values of initializers and Constant nodes, and of scalars that AIMET stored as integers, by name."""
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and all(name in values for name in node.input) and len(node.input) == 3:
            code, scale, zero = (values[name] for name in node.input)
            if code.size == 1:
                values[node.output[0]] = (code.astype(np.float32) - zero.astype(np.float32)) * scale
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    values[node.output[0]] = numpy_helper.to_array(attribute.t)
    return values


def replace_input(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give every node that takes the tensor `old` the tensor `new` instead."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def remove_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and initializers whose results are not used."""
    while True:
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        idle = [node for node in graph.node if not any(name in used for name in node.output)]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)
