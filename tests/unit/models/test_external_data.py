from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.errors import CheckpointError, QuantizationError
from hpe_tasks.models.external_data import external_tensors
from hpe_tasks.models.onnx_model import describe_onnx, prepare_onnx
from hpe_tasks.onnx_export import check_onnx
from hpe_tasks.onnx_runtime.session import open_session
from support import tiny_networks as tiny

SECRET = "signing-key.pem"


def named(name: str = "stolen") -> onnx.TensorProto:
    """Eight values that are to be read from a file of the working directory."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[8], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=SECRET)
    tensor.external_data.add(key="length", value="32")
    return tensor


def inside(*initializers: onnx.TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.GraphProto:
    last = helper.make_node("Identity", [initializers[0].name], ["got"]) if initializers else nodes[-1]
    given = helper.make_tensor_value_info(last.output[0], TensorProto.FLOAT, [8])
    return helper.make_graph([*nodes[:-1], last], "inside", [], [given], list(initializers))


def branches(chosen: onnx.GraphProto) -> onnx.NodeProto:
    plain = inside(numpy_helper.from_array(np.zeros(8, np.float32), "zeros"))
    return helper.make_node("If", ["yes"], ["chosen"], then_branch=chosen, else_branch=plain)


def constant(field: str) -> onnx.NodeProto:
    """A node with a tensor, or several, in one field of an attribute."""
    node, attribute = helper.make_node("Constant", [], ["value"]), onnx.AttributeProto(name="value")
    sparse = onnx.SparseTensorProto(values=named(), dims=[8])
    value = sparse if "sparse" in field else named()
    if field.endswith("s"):
        attribute.type = getattr(onnx.AttributeProto, field.upper())
        getattr(attribute, field).append(value)
    else:
        attribute.type = getattr(onnx.AttributeProto, "TENSOR" if field == "t" else field.upper())
        getattr(attribute, field).CopyFrom(value)
    node.attribute.append(attribute)
    return node


def if_branch(model: onnx.ModelProto) -> None:
    """What was accepted, and read: onnxruntime adds the file's content to the heatmaps."""
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node[-1].output[0] = "maps"
    model.graph.node.append(branches(inside(named())))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axes"))
    model.graph.node.append(helper.make_node("ReduceSum", ["chosen", "axes"], ["sum"]))
    model.graph.node.append(helper.make_node("Add", ["maps", "sum"], ["heatmaps"]))


def branch_of_a_branch(model: onnx.ModelProto) -> None:
    model.graph.node.append(branches(inside(nodes=(branches(inside(named())),))))


def graphs(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["heatmaps"], ["same"])
    node.attribute.append(onnx.AttributeProto(name="many", type=onnx.AttributeProto.GRAPHS, graphs=[inside(named())]))
    model.graph.node.append(node)


def function(model: onnx.ModelProto) -> None:
    body = [constant("t")]
    model.functions.append(helper.make_function("own", "F", [], ["value"], body, [helper.make_opsetid("", 13)]))


def function_branch(model: onnx.ModelProto) -> None:
    body = [branches(inside(named()))]
    model.functions.append(helper.make_function("own", "F", ["yes"], ["chosen"], body, [helper.make_opsetid("", 13)]))


def sparse_values(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=named(), dims=[8]))


def sparse_indices(model: onnx.ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(8, np.float32), "values")
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=named(), dims=[8]))


def training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(inside(named()))


HIDDEN: dict[str, Callable[[onnx.ModelProto], None]] = {
    "initializer": lambda model: model.graph.initializer.append(named()),
    "if-branch": if_branch,
    "branch-of-a-branch": branch_of_a_branch,
    **{
        f"attribute-{field}": lambda model, field=field: model.graph.node.insert(0, constant(field))  # type: ignore[misc]
        for field in ("t", "tensors", "sparse_tensor", "sparse_tensors")
    },
    "attribute-graphs": graphs,
    "function": function,
    "function-branch": function_branch,
    "sparse-initializer-values": sparse_values,
    "sparse-initializer-indices": sparse_indices,
    "training-info": training,
}

OPENED: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "prepare": (lambda file: prepare_onnx(file, file.with_name("cleaned.onnx"), tiny.onnx_config()), CheckpointError),
    "run": (open_session, CheckpointError),
    "describe": (describe_onnx, CheckpointError),
    "ship": (check_onnx, QuantizationError),
}


@pytest.mark.parametrize(("use", "kind"), OPENED.values(), ids=OPENED)
@pytest.mark.parametrize("hide", HIDDEN.values(), ids=HIDDEN)
def test_a_tensor_in_another_file_is_found_wherever_it_lies(
    hide: Callable[[onnx.ModelProto], None],
    use: Callable[[Path], object],
    kind: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / SECRET).write_bytes(b"\0\0\x80?" * 8)
    monkeypatch.chdir(tmp_path)
    model = tiny.pose_onnx()
    hide(model)
    onnx.save(model, tmp_path / "source.onnx")
    with pytest.raises(kind, match=r"source\.onnx keeps 1 .* '(stolen|)' in 'signing-key\.pem'"):
        use(tmp_path / "source.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == [SECRET, "source.onnx"]


def test_every_field_that_can_hold_a_tensor_is_among_the_cases() -> None:
    """Messages of ONNX that lead to a tensor, as its own description has them: what a new version adds, shows here."""
    leads: set[str] = set()
    seen, open_ends = set(), [onnx.ModelProto.DESCRIPTOR]
    while open_ends:
        message = open_ends.pop()
        seen.add(message.full_name)
        for field in message.fields:
            kind = field.message_type
            if kind is not None and kind.name in {"TensorProto", "SparseTensorProto", "GraphProto", "FunctionProto"}:
                leads.add(f"{message.name}.{field.name}")
            if kind is not None and kind.full_name not in seen:
                open_ends.append(kind)
    assert leads == {
        *("ModelProto.graph", "ModelProto.functions", "GraphProto.initializer", "GraphProto.sparse_initializer"),
        *("TrainingInfoProto.initialization", "TrainingInfoProto.algorithm"),
        *("SparseTensorProto.values", "SparseTensorProto.indices"),
        *(f"AttributeProto.{field}" for field in ("t", "g", "sparse_tensor", "tensors", "graphs", "sparse_tensors")),
    }


def test_a_file_that_is_complete_names_no_other() -> None:
    model = tiny.pose_onnx()
    model.graph.initializer[0].external_data.add(key="location", value="was-there-once.bin")
    assert not list(external_tensors(model))
