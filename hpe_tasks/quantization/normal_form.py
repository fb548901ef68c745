"""One form for every ONNX graph before it is calibrated: what exporters leave beside the layers is folded into them.

Constant branches, identities, dropout and batch normalizations go by onnxscript's optimizer and rewrite rules. Scales
and shifts by constants, which older exporters write in place of a batch normalization, are folded here. Otherwise each
of them would be an activation with a range of its own.
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from hpe_tasks.contract.onnx_session import inference_session
from hpe_tasks.contract.refusals import REFUSALS as ORT_REFUSALS
from hpe_tasks.models.onnx_graph import attributes_of, output_channels
from hpe_tasks.records.network import NormalForm

LARGEST_DIFFERENCE = 1e-5
"""Relative to the largest value of an output: what float arithmetic in another order may change."""

log = logging.getLogger(__name__)

REFUSALS = (
    *ORT_REFUSALS,
    AttributeError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)
"""What onnxscript, onnx and onnxruntime raise for a graph that they cannot work with."""

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm"}
_AFFINE = {"Add", "Div", "Mul", "Sub"}


def normal_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the graph, equal to it in exact arithmetic, with everything constant folded into the layers.

    Inputs and outputs keep their names, order and shapes. The nodes' and inner tensors' names may change.
    """
    from onnxscript import optimizer, rewriter

    simplified: onnx.ModelProto = rewriter.rewrite(optimizer.optimize(copy.deepcopy(model)))
    while _fold_affine(simplified.graph):
        pass
    return simplified


def proved_normal_form(
    model: onnx.ModelProto, feeds: Iterable[Mapping[str, np.ndarray]]
) -> tuple[onnx.ModelProto, NormalForm]:
    """The normal form where it computes the same, and the graph as it was where it does not; says which, and why.

    Args:
        model: A graph that onnxruntime can run.
        feeds: Real images as the graph takes them: what both are compared on.
    """
    before = len(model.graph.node)
    try:
        simplified = normal_form(model)
        onnx.checker.check_model(simplified, full_check=True)
        difference = largest_difference(model, simplified, feeds)
    except REFUSALS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        log.warning("The graph is quantized as it is: its normal form cannot be made (%s).", reason)
        return model, NormalForm(applied=False, nodes_before=before, nodes_after=before, reason=reason)
    if not difference <= LARGEST_DIFFERENCE:
        reason = f"differs by {difference:.1e} of the largest value, where {LARGEST_DIFFERENCE:.0e} is allowed"
        log.warning("The graph is quantized as it is: its normal form %s.", reason)
        return model, NormalForm(
            applied=False, nodes_before=before, nodes_after=before, largest_difference=difference, reason=reason
        )
    after = len(simplified.graph.node)
    return simplified, NormalForm(applied=True, nodes_before=before, nodes_after=after, largest_difference=difference)


def largest_difference(
    model: onnx.ModelProto, simplified: onnx.ModelProto, feeds: Iterable[Mapping[str, np.ndarray]]
) -> float:
    """Largest difference of two graphs' outputs, relative to each output's largest value; NaN where one has NaN."""
    # As they stand: onnxruntime's own optimizations would fold the first graph as well.
    one, other = (inference_session(each.SerializeToString(), optimized=False) for each in (model, simplified))
    names = [output.name for output in model.graph.output]
    largest = 0.0
    for feed in feeds:
        for wanted, got in zip(one.run(names, dict(feed)), other.run(names, dict(feed)), strict=True):
            scale = float(np.abs(wanted).max()) or 1.0
            # `maximum` keeps NaN, which `max` may drop.
            largest = float(np.maximum(largest, np.abs(wanted - got).max() / scale))
    return largest


def _fold_affine(graph: onnx.GraphProto) -> bool:
    """Fold one scale or shift by a constant into the layer before it; false where there is none."""
    constants = {t.name: t for t in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type not in _AFFINE:
            continue
        for variable, constant in ((0, 1), (1, 0)):
            layer = producers.get(node.input[variable])
            if layer is None or uses[layer.output[0]] > 1 or (node.op_type == "Div" and variable == 1):
                continue
            values = _per_channel(constants.get(node.input[constant]), layer, constants)
            if values is None:
                continue
            _absorb(graph, layer, constants, *_scale_and_shift(node.op_type, values, reverse=variable == 1))
            layer.output[0] = node.output[0]
            graph.node.remove(node)
            return True
    return False


def _scale_and_shift(op_type: str, values: np.ndarray, *, reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """The operation as `scale · x + shift`; `reverse` where x is the second operand."""
    ones, zeros = np.ones_like(values), np.zeros_like(values)
    if op_type == "Mul":
        return values, zeros
    if op_type == "Div":
        return ones / values, zeros
    if op_type == "Add":
        return ones, values
    return (-ones, values) if reverse else (ones, -values)


def _per_channel(
    constant: onnx.TensorProto | None, layer: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> np.ndarray | None:
    """A constant as one float64 for each channel that a layer of constant weights gives; None for all others."""
    if constant is None or layer.op_type not in _WEIGHTED:
        return None
    if any(name not in constants for name in layer.input[1:] if name):
        return None
    values, weight = numpy_helper.to_array(constant), constants[layer.input[1]]
    channels, rank = output_channels(layer, weight), len(weight.dims)
    if values.dtype != np.float32:
        return None
    if values.size == 1 and values.ndim <= rank:
        return np.full(channels, values.reshape(()), np.float64)
    wanted = (channels,) + (1,) * (rank - 2)
    if values.shape not in {wanted, (1, *wanted)}:
        return None
    return values.reshape(channels).astype(np.float64)


def _absorb(
    graph: onnx.GraphProto,
    layer: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    scale: np.ndarray,
    shift: np.ndarray,
) -> None:
    """Make the layer give `scale · y + shift` for what it gives now; its tensors become its own."""
    weight = numpy_helper.to_array(constants[layer.input[1]]).astype(np.float64)
    has_bias = len(layer.input) > 2 and layer.input[2] != ""
    bias = numpy_helper.to_array(constants[layer.input[2]]).astype(np.float64) if has_bias else np.zeros_like(scale)
    if layer.op_type == "Gemm":
        # Gemm may scale both of its terms; afterwards the bias stands as it is.
        bias = bias * attributes_of(layer).get("beta", 1.0)
        for attribute in [a for a in layer.attribute if a.name == "beta"]:
            layer.attribute.remove(attribute)
        weight = weight * (scale[:, None] if attributes_of(layer).get("transB", 0) else scale)
    elif layer.op_type == "Conv":
        weight = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    else:
        groups = attributes_of(layer).get("group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        weight = (grouped * scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))).reshape(weight.shape)
    name = layer.output[0]
    tensors = {f"{name}.weight": weight, f"{name}.bias": bias * scale + shift}
    del layer.input[1:]
    for each, values in tensors.items():
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), each))
        layer.input.append(each)
