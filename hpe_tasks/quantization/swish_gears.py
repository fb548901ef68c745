"""Swishes that let a factor for each channel through: `z · sigmoid(z / factor)` is `factor · x · sigmoid(x)`.

A swish bends values at points of its own, so its channels could not be multiplied. With a constant of its own before
the sigmoid, a gear, they can: the layer before gives `factor · x`, the gear brings the sigmoid what it had, and the
factor goes on through the product. The scale of an e-swish, `x · 1.25 · sigmoid(x)`, is such a factor, the same for all
channels: the layer before takes it, and its own multiplication goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hpe_tasks.models.onnx_graph import output_channels

LAYERS = {"Conv", "ConvTranspose"}
_BENDS = {"HardSigmoid", "Sigmoid"}


def put_gears(graph: onnx.GraphProto) -> set[str]:
    """Give every swish behind a layer a gear; their outputs' names.

    Left as they are: swishes whose operand is read elsewhere as well, or is no layer's with constant weights.
    """
    gears: set[str] = set()
    for product in [node for node in graph.node if node.op_type == "Mul" and len(node.input) == 2]:
        for main, gate in ((0, 1), (1, 0)):
            made = _put_gear(graph, product, main, gate)
            if made is not None:
                gears.add(made)
                break
    return gears


def drop_idle_gears(graph: onnx.GraphProto, gears: set[str]) -> None:
    """Take away the gears that multiply by one."""
    constants = {t.name: t for t in graph.initializer}
    for gear in [node for node in graph.node if node.output[0] in gears]:
        if (numpy_helper.to_array(constants[gear.input[1]]) == 1).all():
            (bend,) = (node for node in graph.node if gear.output[0] in node.input)
            bend.input[0] = gear.input[0]
            graph.node.remove(gear)
            graph.initializer.remove(constants[gear.input[1]])


def _put_gear(graph: onnx.GraphProto, product: onnx.NodeProto, main: int, gate: int) -> str | None:
    """A gear before the sigmoid of a product, if it is a swish behind a layer; the name of what the gear gives."""
    constants = {t.name: t for t in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    bend = producers.get(product.input[gate])
    if bend is None or bend.op_type not in _BENDS:
        return None
    values, scale, scaled = bend.input[0], 1.0, None
    if product.input[main] != values:
        scaled = producers.get(product.input[main])
        found = None if scaled is None or readers[scaled.output[0]] > 1 else _scale_of(scaled, values, constants)
        if found is None:
            return None
        scale = found
    layer = producers.get(values)
    if layer is None or layer.op_type not in LAYERS or readers[values] != 2:
        return None
    own = [name for name in layer.input[1:] if name]
    if any(name not in constants or (scaled is not None and readers[name] > 1) for name in own):
        return None
    channels = output_channels(layer, constants[layer.input[1]])
    if scaled is not None:
        for name in own:
            weights = numpy_helper.to_array(constants[name])
            constants[name].CopyFrom(numpy_helper.from_array((weights * np.float64(scale)).astype(np.float32), name))
        product.input[main] = values
        graph.node.remove(scaled)
        (factor,) = (name for name in scaled.input if name != values)
        if readers[factor] == 1:
            graph.initializer.remove(constants[factor])
    gear, geared = f"{values}.gear", f"{values}.geared"
    graph.initializer.append(numpy_helper.from_array(np.full((1, channels, 1, 1), 1 / scale, np.float32), gear))
    graph.node.insert(list(graph.node).index(bend), helper.make_node("Mul", [values, gear], [geared], name=geared))
    bend.input[0] = geared
    return geared


def _scale_of(node: onnx.NodeProto, values: str, constants: Mapping[str, onnx.TensorProto]) -> float | None:
    """By which one number above zero a product multiplies these values; None for everything else."""
    if node.op_type != "Mul" or values not in node.input or node.input[0] == node.input[1]:
        return None
    (other,) = (name for name in node.input if name != values)
    if other not in constants:
        return None
    found = numpy_helper.to_array(constants[other])
    return float(found.reshape(())) if found.size == 1 and found.dtype == np.float32 and found.reshape(()) > 0 else None
