"""What nodes of ONNX graphs say of themselves, and what a graph is asked to give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes that a node has, by name; those that it leaves to their defaults are not among them."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def output_channels(layer: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    """How many channels a Conv, ConvTranspose or Gemm with these weights gives."""
    attributes = attributes_of(layer)
    if layer.op_type == "Conv":
        return int(weight.dims[0])
    if layer.op_type == "ConvTranspose":
        return int(weight.dims[1] * attributes.get("group", 1))
    return int(weight.dims[0 if attributes.get("transB", 0) else 1])


def give(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Make tensors of a graph outputs as well, each once."""
    known = {output.name for output in graph.output}
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
