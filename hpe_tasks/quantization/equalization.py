"""Channels that share one range are evened out, by factors that move into the weights around them, where that is exact.

An activation has one range for all of its channels: those whose values are small get few codes. A factor for each
channel changes nothing of what the network computes when the layer before multiplies by it and the layers behind divide
by it, and everything between lets it through: ReLU, PReLU, pooling, resizing, sums and concatenations of what has the
same factors, splits, channel shuffles, a product with a gate, whose other operand keeps its values, and a swish, whose
sigmoid gets a constant of its own. AIMET's own equalization knows chains of two or three layers; here channels that
must share a factor are joined over the whole graph.

Factors are powers of two: float arithmetic gives the same bits, scaled. What lies between two layers that bend or bound
values at points of their own (ReLU6, sigmoid) keeps its values.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from hpe_tasks.contract.onnx_session import inference_session
from hpe_tasks.models.onnx_graph import attributes_of
from hpe_tasks.quantization.channel_shuffles import channel_shuffles
from hpe_tasks.quantization.normal_form import LARGEST_DIFFERENCE, REFUSALS, largest_difference
from hpe_tasks.quantization.swish_gears import LAYERS, drop_idle_gears, put_gears
from hpe_tasks.records.network import Equalization

_ALIKE = {
    *("AveragePool", "Dropout", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "PRelu"),
    *("Relu", "Resize", "Upsample"),
}
"""Operators that give each channel from the same channel, multiplied by a positive number when that is."""

_GATES = {"HardSigmoid", "Sigmoid", "Softmax"}
_MOST_BITS = 16
_MOST_GEARED_BITS = 4
"""Gears have one range for all of their channels: 8 bits tell a sixteenth of the largest to half a percent."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Tensor:
    """An activation N×C×H×W: where its channels stand among those of all, its size, and their largest values."""

    first: int
    shape: tuple[int, ...]
    reach: NDArray[np.float64]

    @property
    def channels(self) -> int:
        return self.shape[1]

    def all(self) -> range:
        return range(self.first, self.first + self.channels)


class _Classes:
    """Channels that must have the same factor, joined; some keep their values."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))
        self._kept: set[int] = set()

    def of(self, channel: int) -> int:
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel

    def join(self, ones: Iterable[int], others: Iterable[int]) -> None:
        for one, other in zip(ones, others, strict=True):
            self._parent[self.of(one)] = self.of(other)

    def keep(self, tensor: _Tensor) -> None:
        self._kept.update(tensor.all())

    def kept(self) -> set[int]:
        return {self.of(channel) for channel in self._kept}


def proved_equalization(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]]
) -> tuple[onnx.ModelProto, Equalization]:
    """The graph with its channels evened out where it computes the same, and as it was where it does not; says which.

    Args:
        model: In its normal form: weights and biases are constants.
        feeds: Real images as the graph takes them: what ranges are measured on, and both are compared on.
    """
    try:
        changed, moved = equalized(model, feeds)
        difference = largest_difference(model, changed, feeds)
    except REFUSALS as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        log.warning("Channels are not evened out: %s.", reason)
        return model, Equalization(applied=False, channels=0, reason=reason)
    if not difference <= LARGEST_DIFFERENCE:
        reason = f"differs by {difference:.1e} of the largest value, where {LARGEST_DIFFERENCE:.0e} is allowed"
        log.warning("Channels are not evened out: the graph %s.", reason)
        return model, Equalization(applied=False, channels=0, largest_difference=difference, reason=reason)
    if not moved:
        reason = "no channel can be multiplied without changing what is computed, or none needs to be"
        return model, Equalization(applied=False, channels=0, largest_difference=difference, reason=reason)
    return changed, Equalization(applied=True, channels=moved, largest_difference=difference)


def equalized(model: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]]) -> tuple[onnx.ModelProto, int]:
    """A copy of the graph with its channels evened out, and how many of its activations' channels are larger now."""
    changed = copy.deepcopy(model)
    graph = changed.graph
    gears = put_gears(graph)
    tensors = _measured(changed, feeds)
    classes = _constrained(graph, tensors, gears)
    exponents = _exponents(graph, tensors, classes, gears)
    factors = {
        name: np.array([2.0 ** exponents.get(classes.of(channel), 0) for channel in tensor.all()])
        for name, tensor in tensors.items()
    }
    _rewrite(graph, factors, gears)
    drop_idle_gears(graph, gears)
    return changed, sum(int((factor > 1).sum()) for factor in factors.values())


def _measured(model: onnx.ModelProto, feeds: Iterable[Mapping[str, np.ndarray]]) -> dict[str, _Tensor]:
    """Every activation of rank 4, with the largest value of each channel."""
    exposed = copy.deepcopy(model)
    known = {output.name for output in exposed.graph.output}
    names = [name for node in exposed.graph.node for name in node.output if name]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = inference_session(exposed.SerializeToString(), optimized=False)
    names = [tensor.name for tensor in (*model.graph.input, *exposed.graph.output)]
    reach: dict[str, NDArray[np.float64]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for feed in feeds:
        outputs = [output.name for output in exposed.graph.output]
        values = dict(feed) | dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))
        for name in names:
            array = values.get(name)
            if array is None or array.ndim != 4 or array.dtype != np.float32 or not array.size:
                continue
            largest = np.abs(array).max(axis=(0, 2, 3)).astype(np.float64)
            if name in shapes and shapes[name][1:] != array.shape[1:]:
                raise ValueError(f"the size of {name} depends on the image")
            shapes[name] = array.shape
            reach[name] = np.maximum(reach.get(name, 0.0), largest)
    tensors, first = {}, 0
    for name, shape in shapes.items():
        tensors[name] = _Tensor(first, shape, reach[name])
        first += shape[1]
    return tensors


def _constrained(graph: onnx.GraphProto, tensors: Mapping[str, _Tensor], gears: set[str]) -> _Classes:
    """Join the channels that each operator ties together, and keep those that it does not let through."""
    classes = _Classes(sum(tensor.channels for tensor in tensors.values()))
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for name in (*(t.name for t in graph.input), *(t.name for t in graph.output)):
        if name in tensors:
            classes.keep(tensors[name])
    producers = {name: node for node in graph.node for name in node.output}
    shuffles = channel_shuffles(graph, {name: tensor.shape for name, tensor in tensors.items()}, constants)
    for node in graph.node:
        if any(name in shuffles for name in node.output):
            joined = shuffles[node.output[0]]
            if joined is not None:
                source, target, order = joined
                classes.join([tensors[source].first + int(c) for c in order], tensors[target].all())
            continue
        if node.output[0] in gears:  # the sigmoid behind it keeps what it gives
            continue
        ends = [tensors[name] for name in (*node.input, *node.output) if name in tensors]
        if not _let_through(node, tensors, constants, producers, classes):
            for tensor in ends:
                classes.keep(tensor)
    return classes


def _let_through(
    node: onnx.NodeProto,
    tensors: Mapping[str, _Tensor],
    constants: Mapping[str, np.ndarray],
    producers: Mapping[str, onnx.NodeProto],
    classes: _Classes,
) -> bool:
    """Join what an operator ties together; false where factors would change what it computes."""
    variable = [name for name in node.input if name and name not in constants]
    if any(name not in tensors for name in (*variable, *node.output) if name):
        return False
    out = tensors[node.output[0]]
    if node.op_type in LAYERS:
        return len(variable) == 1
    if node.op_type == "Mul" and len(variable) == 2:
        return _gate(variable, out, tensors, producers, classes)
    if node.op_type in {"Concat", "Split"}:
        return _pieces(node, tensors, classes)
    alike = _is_sum(node, constants, out.channels) or _is_alike(node, constants)
    if alike and all(tensors[name].channels == out.channels for name in variable):
        for name in variable:
            classes.join(tensors[name].all(), out.all())
        return True
    return False


def _pieces(node: onnx.NodeProto, tensors: Mapping[str, _Tensor], classes: _Classes) -> bool:
    """A concatenation or a split of channels."""
    joins = node.op_type == "Concat"
    whole, parts = (node.output[0], node.input) if joins else (node.input[0], node.output)
    if attributes_of(node).get("axis", 0) != 1 or any(name not in tensors for name in (whole, *parts)):
        return False
    classes.join([channel for name in parts for channel in tensors[name].all()], tensors[whole].all())
    return True


def _is_sum(node: onnx.NodeProto, constants: Mapping[str, np.ndarray], channels: int) -> bool:
    """Whether an operator takes all of its operands with one factor: those that are constants can be multiplied."""
    if node.op_type in {"Add", "Sub"}:
        return all(_by_channel(constants[name], channels) for name in node.input if name in constants)
    return node.op_type in {"Max", "Min", "Sum"} and not any(name in constants for name in node.input)


def _is_alike(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> bool:
    """Whether an operator, by its constants, is one of those that let a factor through."""
    given = [constants[name] for name in node.input[1:] if name in constants]
    if node.op_type in {"Mul", "Div"}:
        # The second operand of a quotient; either one of a product.
        constant = [name in constants for name in node.input]
        return sum(constant) == 1 and not (node.op_type == "Div" and constant[0])
    if node.op_type == "ReduceMean":
        axes = given[0].tolist() if given else attributes_of(node).get("axes", [])
        return sorted(int(axis) % 4 for axis in axes) == [2, 3] and attributes_of(node).get("keepdims", 1) == 1
    if node.op_type == "Clip":
        unbounded = len(node.input) < 3 or not node.input[2]
        return unbounded and len(given) == 1 and given[0].size == 1 and not given[0].any()
    if node.op_type == "Pad":
        return len(given) == len([name for name in node.input[1:] if name]) and not np.any(given[1:2])
    # A resize may take a constant for what lies outside.
    return (
        node.op_type in _ALIKE
        and attributes_of(node).get("coordinate_transformation_mode", b"") != b"tf_crop_and_resize"
    )


def _by_channel(values: np.ndarray, channels: int) -> bool:
    """Whether a constant can be multiplied channel by channel: it has one value for each, or one for all."""
    return values.size == 1 or values.shape in {(channels, 1, 1), (1, channels, 1, 1)}


def _gate(
    operands: Sequence[str],
    out: _Tensor,
    tensors: Mapping[str, _Tensor],
    producers: Mapping[str, onnx.NodeProto],
    classes: _Classes,
) -> bool:
    """A product with a gate, which keeps its values: the factor goes through the other operand."""

    def is_gate(name: str) -> bool:
        small = tensors[name].shape[2:] == (1, 1) and out.shape[2:] != (1, 1)
        return small or (name in producers and producers[name].op_type in _GATES)

    gates = [name for name in operands if is_gate(name)]
    if len(gates) != 1 or operands[0] == operands[1]:
        return False
    (main,) = (name for name in operands if name != gates[0])
    if tensors[main].channels != out.channels:
        return False
    classes.keep(tensors[gates[0]])
    classes.join(tensors[main].all(), out.all())
    return True


def _exponents(
    graph: onnx.GraphProto, tensors: Mapping[str, _Tensor], classes: _Classes, gears: set[str]
) -> dict[int, int]:
    """The power of two for each class of channels: until the first of its activations is at its tensor's range.

    Half of that way where a layer reads them that sums over channels: its weights have one range for all of them, too,
    and are made smaller by what the values are made larger.
    """
    room: dict[int, float] = {}
    fused = _fused(graph)
    for name, tensor in tensors.items():
        if name in fused:
            continue
        most = tensor.reach.max()
        for channel, reach in zip(tensor.all(), tensor.reach, strict=True):
            if reach > 0:
                root = classes.of(channel)
                room[root] = min(room.get(root, math.inf), most / reach)
    summed: set[int] = set()
    depths = {t.name: (t.dims[0], t.dims[1]) for t in graph.initializer if len(t.dims) > 1}
    for node in graph.node:
        if node.op_type in LAYERS and node.input[0] in tensors:
            group = attributes_of(node).get("group", 1)
            source = tensors[node.input[0]]
            if not (group == source.channels and 1 in depths.get(node.input[1], ())):
                summed.update(classes.of(channel) for channel in source.all())
    kept = classes.kept()
    geared = {
        classes.of(channel)
        for node in graph.node
        if node.output[0] in gears and node.input[0] in tensors
        for channel in tensors[node.input[0]].all()
    }
    bits = {}
    for root, most in room.items():
        if root not in kept:
            share = 0.5 if root in summed else 1.0
            limit = _MOST_GEARED_BITS if root in geared else _MOST_BITS
            bits[root] = min(limit, math.floor(math.log2(most) * share + 1e-9))
    return {root: count for root, count in bits.items() if count > 0}


def _fused(graph: onnx.GraphProto) -> set[str]:
    """What a layer gives to a ReLU alone: the two are quantized once, behind the ReLU."""
    readers = Counter(name for node in graph.node for name in node.input)
    outputs = {output.name for output in graph.output}
    produced = {node.output[0] for node in graph.node if node.op_type in LAYERS | {"Add"}} - outputs
    read = (node.input[0] for node in graph.node if node.op_type in {"Relu", "Clip"})
    return {name for name in read if name in produced and readers[name] == 1}


def _rewrite(graph: onnx.GraphProto, factors: Mapping[str, NDArray[np.float64]], gears: set[str]) -> None:
    """Multiply what each layer gives, and divide by what it is given; constants of sums and gears follow."""
    constants = {t.name: t for t in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        out = factors.get(node.output[0])
        if out is None:
            continue
        if node.op_type in LAYERS and node.input[0] in factors and node.input[1] in constants:
            if (factors[node.input[0]] == 1).all() and (out == 1).all():
                continue
            weight = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
            _put(graph, constants, uses, node, 1, _moved(node, weight, factors[node.input[0]], out))
            if len(node.input) > 2 and node.input[2] in constants:
                bias = numpy_helper.to_array(constants[node.input[2]]).astype(np.float64)
                _put(graph, constants, uses, node, 2, bias * out)
        elif node.output[0] in gears:
            gear = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
            _put(graph, constants, uses, node, 1, gear / factors[node.input[0]][:, None, None])
        elif node.op_type in {"Add", "Sub"}:
            for place, name in enumerate(node.input):
                if name in constants and (out != 1).any():
                    values = numpy_helper.to_array(constants[name]).astype(np.float64)
                    _put(graph, constants, uses, node, place, values.reshape(-1, 1, 1) * out[:, None, None])


def _moved(node: onnx.NodeProto, weight: np.ndarray, given: np.ndarray, gives: np.ndarray) -> np.ndarray:
    """A layer's weights for inputs and outputs that are multiplied by these."""
    groups = int(attributes_of(node).get("group", 1))
    spatial = (1,) * (weight.ndim - 2)
    if node.op_type == "Conv":
        # O×(I/groups): each group of outputs reads its own inputs.
        inputs = np.repeat(given.reshape(groups, -1), len(gives) // groups, axis=0)
        scale = gives[:, None] / inputs
    else:
        # I×(O/groups): each group of inputs gives its own outputs.
        outputs = np.repeat(gives.reshape(groups, -1), len(given) // groups, axis=0)
        scale = outputs / given[:, None]
    moved: np.ndarray = weight * scale.reshape(*scale.shape, *spatial)
    return moved


def _put(
    graph: onnx.GraphProto,
    constants: dict[str, onnx.TensorProto],
    uses: Counter[str],
    node: onnx.NodeProto,
    place: int,
    values: np.ndarray,
) -> None:
    """Give a node a constant of its own: where others share it, they keep the one that is there."""
    name = node.input[place]
    tensor = numpy_helper.from_array(values.astype(np.float32), name)
    if uses[name] == 1:
        constants[name].CopyFrom(tensor)
        return
    tensor.name = node.input[place] = f"{node.output[0]}.{place}"
    graph.initializer.append(tensor)
    constants[tensor.name] = graph.initializer[-1]
    uses[name] -= 1
    uses[tensor.name] = 1
