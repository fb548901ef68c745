"""Changes to ONNX models by what their fields are: names, sizes, kinds, lists, and parts of the graph."""

from __future__ import annotations

from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st
from onnx import helper

from support.fuzzing.json_values import broken_bytes

_NUMBERS = [0, 1, 2, 3, 4, 5, 7, 11, 16, 23, 99, 2**20, 2**31 - 1, -1, -2, -(2**31)]
_LONG_NUMBERS = [*_NUMBERS, 2**40, 2**62, 2**63 - 1, -(2**63)]
_REALS = [0.0, -1.0, 1e-38, 1e38, float("nan"), float("inf"), float("-inf")]
_TEXTS = ["", " ", "heatmaps", "input", "stem.w", "a" * 3000, "../key.pem", "com.microsoft", "ai.onnx.ml", "é"]
_OPS = [
    *("Loop", "If", "Scan", "Identity", "Constant", "ConstantOfShape", "Tile", "Expand", "Range", "Resize", "Gather")
]
_OPS += [*("Conv", "Reshape", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "RandomNormal", "Optional", "NoSuchOp")]


@st.composite
def changed_onnx(draw: st.DrawFn, data: bytes) -> bytes:
    """A model with one to three of its fields changed; now and then its bytes as well."""
    model = onnx.ModelProto.FromString(data)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        if draw(st.integers(0, 7)) == 0:
            _change_graph(draw, model.graph)
        else:
            _change_field(draw, model)
    result = model.SerializeToString()
    return draw(broken_bytes(result)) if draw(st.integers(0, 9)) == 0 else result


def _change_field(draw: st.DrawFn, message: Message) -> None:
    while True:
        fields: list[tuple[Any, Any]] = sorted(message.ListFields(), key=lambda pair: pair[0].number)
        if not fields or draw(st.integers(0, 12)) == 0:
            fields = [(field, getattr(message, field.name)) for field in message.DESCRIPTOR.fields]
        field, value = draw(st.sampled_from(fields))
        many = not isinstance(value, Message | str | bytes | int | float)
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            break
        if many and (not len(value) or draw(st.integers(0, 8)) == 0):
            break
        message = value[draw(st.integers(0, len(value) - 1))] if many else value
        if not many and draw(st.integers(0, 12)) == 0:
            message.Clear()
            return
    if many:
        _change_list(draw, field, value)
    else:
        setattr(message, field.name, draw(_odd(field)))


def _change_list(draw: st.DrawFn, field: FieldDescriptor, values: Any) -> None:
    plain = field.type != FieldDescriptor.TYPE_MESSAGE
    what = draw(st.sampled_from(["odd", "without", "twice", "reversed", "none"]))
    if what == "odd" and plain:
        if len(values):
            values[draw(st.integers(0, len(values) - 1))] = draw(_odd(field))
        else:
            values.append(draw(_odd(field)))
    elif not len(values):
        if not plain:
            values.add()
    elif what == "without":
        del values[draw(st.integers(0, len(values) - 1))]
    elif what == "none":
        del values[:]
    elif what == "reversed":
        values.reverse()
    else:
        copied = values[draw(st.integers(0, len(values) - 1))]
        values.extend([copied] * draw(st.sampled_from([1, 1, 2, 40])))


def _odd(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return st.sampled_from(_TEXTS + _OPS)
        case FieldDescriptor.TYPE_BYTES:
            return st.sampled_from([b"", b"\xff\xfe", b"NOTSET", bytes(64), b"\xff" * 4000])
        case FieldDescriptor.TYPE_FLOAT | FieldDescriptor.TYPE_DOUBLE:
            return st.sampled_from(_REALS)
        case FieldDescriptor.TYPE_INT64:
            return st.sampled_from(_LONG_NUMBERS)
        case FieldDescriptor.TYPE_UINT64:
            return st.sampled_from([number for number in _LONG_NUMBERS if number >= 0])
        case FieldDescriptor.TYPE_ENUM if (kinds := field.enum_type) is not None:
            return st.sampled_from([value.number for value in kinds.values])
        case _:
            return st.sampled_from(_NUMBERS)


def _change_graph(draw: st.DrawFn, graph: onnx.GraphProto) -> None:
    """A node of another kind, a wire that leads elsewhere, a branch, or an output of another node."""
    names = [name for node in graph.node for name in (*node.input, *node.output)] or ["input"]
    node = draw(st.sampled_from(graph.node)) if graph.node else graph.node.add()
    match draw(st.sampled_from(["kind", "wire", "branch", "new"])):
        case "kind":
            node.op_type = draw(st.sampled_from(_OPS))
        case "wire":
            ends: Any = draw(st.sampled_from(["input", "output"]))
            ends = getattr(node, ends)
            if ends:
                ends[draw(st.integers(0, len(ends) - 1))] = draw(st.sampled_from(names))
        case "branch":
            inner = onnx.GraphProto()
            inner.CopyFrom(graph)
            node.attribute.append(helper.make_attribute(draw(st.sampled_from(["body", "then_branch"])), inner))
        case _:
            wires = [draw(st.sampled_from(names)) for _ in range(draw(st.integers(0, 3)))]
            graph.node.insert(0, helper.make_node(draw(st.sampled_from(_OPS)), wires, [draw(st.sampled_from(names))]))
