"""Loops of ONNX files of unknown origin: how often they run must stand in the file, or one picture runs for ever.

A trial with a blank image shows nothing of a loop whose end depends on the picture, so none of those is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import onnx
from onnx import numpy_helper

from hpe_tasks.errors import CheckpointError, shortened

MAX_TRIPS = 10_000
"""Most trips of all loops of a graph together; one within another counts as often as it is begun."""

_MAX_CALLS = 100
"""Functions that call each other in a row; onnxruntime refuses deeper files itself, or overflows its stack."""

_STANDARD = ("", "ai.onnx")
_HINT = (
    "Export the network without loops: unroll them (a `for` over a fixed number under torch.jit.trace or "
    "torch.onnx.export without scripting is), or do after the network what they do."
)

_Names = Mapping[str, "onnx.TensorProto | str | None"]
"""What a graph defines: a constant, another name of something, or None for what is computed or given."""

_Scopes = tuple[_Names, ...]
"""Of a graph and those around it, the innermost first."""


def refuse_unbounded_loops(model: onnx.ModelProto, path: Path) -> None:
    """Raise CheckpointError unless all loops of a model end, on every picture, within `MAX_TRIPS` together.

    Loops are looked for in the graph, in the branches and bodies of its nodes and in functions. The number of trips of
    a Loop must be a constant of the file, and so must what a Scan runs over; conditions may only end a Loop earlier.
    """
    _LoopWalk(model, path).check()


class _LoopWalk:
    """One model, whose functions are each counted once."""

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        self._model, self._path = model, path
        self._functions: dict[tuple[str, str], list[onnx.FunctionProto]] = {}
        for function in model.functions:
            self._functions.setdefault((_domain(function.domain), function.name), []).append(function)
        self._counted: dict[tuple[str, str], int] = {}
        self._calling: list[tuple[str, str]] = []

    def check(self) -> None:
        graph = self._model.graph
        self._nodes(graph.node, (_defined(graph.node, graph.initializer, ()),))
        for key in self._functions:
            self._function(key)

    def _nodes(self, nodes: Iterable[onnx.NodeProto], scopes: _Scopes) -> int:
        """Trips of all loops in a list of nodes, one after the other."""
        total = 0
        for node in nodes:
            trips = self._node(node, scopes)
            total += trips
            if total > MAX_TRIPS:
                self._refuse(node, f"makes it {total:,} trips of loops, of {MAX_TRIPS:,} that a network may take")
        return total

    def _node(self, node: onnx.NodeProto, scopes: _Scopes) -> int:
        inner = sum(self._graph(graph, scopes) for graph in _graphs(node))
        key = (_domain(node.domain), node.op_type)
        if key in self._functions:
            inner += self._function(key)
        if node.domain not in _STANDARD or node.op_type not in _TRIPS:
            return inner
        return self._trips(node, scopes) * (1 + inner)

    def _graph(self, graph: onnx.GraphProto, scopes: _Scopes) -> int:
        given = [value.name for value in graph.input]
        return self._nodes(graph.node, (_defined(graph.node, graph.initializer, given), *scopes))

    def _function(self, key: tuple[str, str]) -> int:
        """Trips of one call; of several functions of the same name those of the longest."""
        if key not in self._counted:
            if key in self._calling or len(self._calling) >= _MAX_CALLS:
                raise CheckpointError(
                    f"{self._path}: function {shortened(key[1])!r} calls itself, or more than {_MAX_CALLS} functions "
                    "call each other in a row.",
                    hint="Export the network without functions of its own.",
                )
            self._calling.append(key)
            self._counted[key] = max(
                self._nodes(function.node, (_defined(function.node, (), function.input),))
                for function in self._functions[key]
            )
            self._calling.pop()
        return self._counted[key]

    def _trips(self, node: onnx.NodeProto, scopes: _Scopes) -> int:
        trips = _TRIPS[node.op_type](node, scopes)
        if trips is None:
            self._refuse(node, "runs as often as the picture makes it: the number is no constant of the file")
        if trips > MAX_TRIPS:
            self._refuse(node, f"runs {trips:,} times, of {MAX_TRIPS:,} that a network may take")
        return trips

    def _refuse(self, node: onnx.NodeProto, what: str) -> NoReturn:
        name = node.name or next(iter(node.output), "")
        within = f" of function {shortened(self._calling[-1][1])!r}" if self._calling else ""
        raise CheckpointError(f"{self._path}: {node.op_type} {shortened(name)!r}{within} {what}.", hint=_HINT)


def _domain(name: str) -> str:
    return "" if name in _STANDARD else name


def _graphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _defined(nodes: Iterable[onnx.NodeProto], initializers: Iterable[onnx.TensorProto], given: Iterable[str]) -> _Names:
    """What names mean in a graph; one that is defined twice means nothing that can be relied on."""
    names: dict[str, onnx.TensorProto | str | None] = {}

    def define(name: str, meaning: onnx.TensorProto | str | None) -> None:
        names[name] = None if name in names else meaning

    for tensor in initializers:
        define(tensor.name, tensor)
    for name in given:
        define(name, None)
    for node in nodes:
        meaning: onnx.TensorProto | str | None = None
        if node.domain in _STANDARD and node.op_type == "Constant":
            meaning = _value(node)
        elif node.domain in _STANDARD and node.op_type == "Identity" and len(node.input) == 1:
            meaning = node.input[0]
        for output in node.output:
            define(output, meaning)
    return names


def _value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a Constant gives, where it is a tensor or whole numbers that stand in it and in no attribute elsewhere."""
    if len(node.attribute) != 1 or node.attribute[0].ref_attr_name:
        return None
    attribute = node.attribute[0]
    if attribute.name == "value":
        return attribute.t
    if attribute.name in ("value_int", "value_ints"):
        numbers = [attribute.i] if attribute.name == "value_int" else list(attribute.ints)
        return onnx.TensorProto(data_type=onnx.TensorProto.INT64, dims=[len(numbers)], int64_data=numbers)
    return None


def _constant(name: str, scopes: Sequence[_Names]) -> onnx.TensorProto | None:
    """The constant that a name stands for; None where it stands for anything else."""
    depth, followed = 0, 0
    while depth < len(scopes):
        if name not in scopes[depth]:
            depth += 1
            continue
        meaning = scopes[depth][name]
        if not isinstance(meaning, str):
            return meaning
        name, followed = meaning, followed + 1
        if followed > len(scopes[depth]):
            return None  # Names that stand for each other.
    return None


def _of_loop(node: onnx.NodeProto, scopes: _Scopes) -> int | None:
    tensor = _constant(node.input[0], scopes) if node.input and node.input[0] else None
    if tensor is None or tensor.data_type != onnx.TensorProto.INT64 or list(tensor.dims) not in ([], [1]):
        return None
    try:
        return max(0, int(numpy_helper.to_array(tensor).item()))
    except (ValueError, TypeError):
        return None  # Its values do not fit what it says of them.


def _of_scan(node: onnx.NodeProto, scopes: _Scopes) -> int | None:
    """Steps along the first constant that a Scan runs over: all that it runs over are of one length."""
    count = next((attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs"), 0)
    if not 0 < count <= len(node.input):
        return None
    axes = next((list(a.ints) for a in node.attribute if a.name == "scan_input_axes"), [0] * count)
    for name, axis in zip(node.input[-count:], axes, strict=False):
        tensor = _constant(name, scopes)
        if tensor is not None and -len(tensor.dims) <= axis < len(tensor.dims):
            return int(tensor.dims[axis])
    return None


_TRIPS: dict[str, Callable[[onnx.NodeProto, _Scopes], int | None]] = {
    "Loop": _of_loop,
    "Scan": _of_scan,
    "SequenceMap": lambda _node, _scopes: None,
}
