"""Which loops of a network are accepted: those that end within a bound on every picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.errors import CheckpointError
from hpe_tasks.models.onnx_model import prepare_onnx
from hpe_tasks.onnx_runtime.session import open_session
from support import tiny_networks as tiny

OPSET = helper.make_opsetid("", 13)


def number(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value), name)


def constant(name: str, value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=number(f"{name}_value", value))


def same(name: str, other: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [name], [other])


def body(*nodes: onnx.NodeProto, result: str = "", within: str = "") -> onnx.GraphProto:
    """A loop's body that changes what it is given, after other nodes, and goes on."""
    go, x, on, y = (f"{name}{within}" for name in ("go", "x", "on", "y"))
    inputs = [
        helper.make_tensor_value_info(f"trip{within}", TensorProto.INT64, []),
        helper.make_tensor_value_info(go, TensorProto.BOOL, []),
        helper.make_tensor_value_info(x, TensorProto.FLOAT, [None] * 4),
    ]
    outputs = [
        helper.make_tensor_value_info(on, TensorProto.BOOL, []),
        helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * 4),
    ]
    last = helper.make_node("Sin", [result or x], [y])
    return helper.make_graph([helper.make_node("Identity", [go], [on]), *nodes, last], "body", inputs, outputs)


def loop(trips: str, condition: str = "", *, of: str = "maps", gives: str = "heatmaps", inner: Any = None) -> Any:
    return helper.make_node("Loop", [trips, condition, of], [gives], name="again", body=inner or body())


def graph(*nodes: onnx.NodeProto, **numbers: Any) -> onnx.ModelProto:
    """The network, with nodes between its maps and what it gives."""
    model = tiny.pose_onnx()
    model.graph.node[-1].output[0] = "maps"
    model.graph.initializer.extend(number(name, value) for name, value in numbers.items())
    model.graph.node.extend(nodes)
    return model


def with_function(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    model = graph(helper.make_node("Again", ["maps"], ["heatmaps"], domain="own"))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.functions.append(helper.make_function("own", "Again", ["maps"], ["heatmaps"], nodes, [OPSET]))
    return model


def branches(chosen: onnx.NodeProto) -> onnx.NodeProto:
    """An If of which one branch is taken by what is in the picture."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("heatmaps", "same")]
    other = same("maps", "same")
    return helper.make_node(
        "If",
        ["bright"],
        ["chosen"],
        then_branch=helper.make_graph([chosen], "then", [], given[:1]),
        else_branch=helper.make_graph([other], "else", [], given[1:]),
    )


def counted() -> tuple[onnx.NodeProto, ...]:
    """The sum of what was found, as a number of trips and as a condition: blank images make it small."""
    return (
        helper.make_node("ReduceSum", ["maps"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["count"], to=TensorProto.INT64),
        helper.make_node("Cast", ["sum"], ["bright"], to=TensorProto.BOOL),
    )


def scan(over: str) -> onnx.NodeProto:
    shape = [None] * 4
    state, step = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", shape), ("s", []))
    )
    given = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    inner = helper.make_graph([helper.make_node("Add", ["x", "s"], ["y"])], "step", [state, step], [given])
    return helper.make_node("Scan", ["maps", over], ["heatmaps"], name="again", body=inner, num_scan_inputs=1)


def nested(trips: int) -> onnx.ModelProto:
    inner = body(loop("trips", of="x", gives="z", inner=body(within="_2")), result="z")
    return graph(loop("trips", inner=inner), trips=trips)


def _loops_over_a_function() -> onnx.ModelProto:
    model = with_function(constant("n", 1000), loop("n"))
    call = helper.make_node("Again", ["x"], ["z"], domain="own")
    model.graph.initializer.append(number("trips", 1000))
    model.graph.node[-1].CopyFrom(loop("trips", inner=body(call, result="z")))
    return model


def _broken_number() -> onnx.ModelProto:
    model = graph(loop("trips"), trips=3)
    model.graph.initializer[-1].raw_data = b"123"
    return model


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "number by the picture": (lambda: graph(*counted(), loop("count")), "as often as the picture makes it"),
    "condition by the picture": (lambda: graph(*counted(), loop("", "bright")), "as often as the picture makes it"),
    "no end": (lambda: graph(loop("", "yes"), yes=True), "as often as the picture makes it"),
    "2^62": (lambda: graph(loop("trips", "yes"), trips=2**62, yes=True), "runs 4,611,686,018,427,387,904 times"),
    "largest number and a condition by the picture": (
        lambda: graph(*counted(), loop("trips", "bright"), trips=2**63 - 1), "runs 9,223,372,036,854,775,807 times",
    ),
    "1,000 of 1,000": (
        lambda: nested(1000),
        "makes it 1,001,000 trips",
    ),
    "1,000 of a function of 1,000": (
        _loops_over_a_function, "makes it 1,001,000 trips",
    ),
    "6,000 after 6,000": (
        lambda: graph(loop("trips", gives="once"), loop("trips", of="once"), trips=6000), "makes it 12,000 trips",
    ),
    "in a branch": (
        lambda: graph(*counted(), branches(loop("trips")), same("chosen", "heatmaps"), trips=10**6),
        "runs 1,000,000 times",
    ),
    "in a function": (
        lambda: with_function(constant("n", 10**6), loop("n")), "of function 'Again' runs 1,000,000 times",
    ),
    "by a function's input": (
        lambda: with_function(*counted(), loop("count")), "of function 'Again' runs as often as the picture",
    ),
    "a name that is defined again within": (
        lambda: graph(
            *counted(),
            loop("one", inner=body(same("count", "n"), loop("n", of="x", gives="z"), result="z")),
            one=1, n=2,
        ),
        "as often as the picture makes it",
    ),
    "names of each other": (
        lambda: graph(same("a", "b"), same("b", "a"), loop("a")),
        "as often as the picture makes it",
    ),
    "bytes that are no number": (_broken_number, "as often as the picture makes it"),
    "scan of the picture": (
        lambda: graph(
            constant("flat", [-1]), helper.make_node("Reshape", ["maps", "flat"], ["all"]), scan("all")
        ),
        "Scan 'again' runs as often",
    ),
    "function that calls itself": (
        lambda: with_function(helper.make_node("Again", ["maps"], ["heatmaps"], domain="own")), "'Again' calls itself",
    ),
}  # fmt: skip


USES: dict[str, Callable[[Path], object]] = {
    "prepare": lambda file: prepare_onnx(file, file.with_name("cleaned.onnx"), tiny.onnx_config()),
    "run": open_session,
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("use", USES)
def test_a_loop_that_need_not_end_is_refused(
    make: Callable[[], onnx.ModelProto], message: str, use: str, tmp_path: Path
) -> None:
    source = tmp_path / "source.onnx"
    source.write_bytes(make().SerializeToString())
    with pytest.raises(CheckpointError, match=message) as refused:
        USES[use](source)
    assert str(source) in refused.value.message
    assert "calls itself" in message or "'again'" in refused.value.message
    assert "Export the network without" in str(refused.value.hint)


ACCEPTED: dict[str, Callable[[], onnx.ModelProto]] = {
    "initializer": lambda: graph(loop("trips"), trips=17),
    "constant by another name": lambda: graph(constant("n", [17]), same("n", "trips"), loop("trips")),
    "ended earlier by the picture": lambda: graph(*counted(), loop("trips", "bright"), trips=17),
    "nested": lambda: nested(17),
    "in a function": lambda: with_function(constant("n", 17), loop("n")),
    "in a branch": lambda: graph(*counted(), branches(loop("trips")), same("chosen", "heatmaps"), trips=17),
    "never": lambda: graph(loop("trips"), trips=-1),
    "scan of a constant": lambda: graph(scan("steps"), steps=np.ones(17, np.float32)),
}


@pytest.mark.parametrize("make", ACCEPTED.values(), ids=ACCEPTED)
def test_a_loop_of_a_known_length_is_accepted(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    onnx.save(make(), tmp_path / "source.onnx")
    prepare_onnx(tmp_path / "source.onnx", tmp_path / "cleaned.onnx", tiny.onnx_config())
