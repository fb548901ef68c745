from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.quantization import normal_form as module
from hpe_tasks.quantization import quantize_model
from hpe_tasks.quantization.normal_form import LARGEST_DIFFERENCE, normal_form, proved_normal_form
from support import tiny_networks as tiny

_RNG = np.random.default_rng(0)


def _values(*shape: int) -> np.ndarray:
    return _RNG.uniform(0.5, 1.5, shape).astype(np.float32)


@dataclass
class Case:
    """A small graph from `x` to `y`, and how many operators of each kind its normal form has."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]
    left: dict[str, int]
    shape: tuple[int, ...] = (2, 3, 6, 6)
    outputs: tuple[str, ...] = ("y",)
    rank: int = field(default=4)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "case",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(self.shape))],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * self.rank) for name in self.outputs],
            [numpy_helper.from_array(values, name) for name, values in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    @property
    def images(self) -> np.ndarray:
        return np.random.default_rng(1).normal(size=self.shape).astype(np.float32)


def _node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


_NORM = {name: _values(4) for name in ("gamma", "beta", "mean", "var")}
_BN = "gamma beta mean var"

CASES = {
    "batch norm after a convolution": Case(
        [_node("Conv", "x w", "a"), _node("BatchNormalization", f"a {_BN}", "y")],
        {"w": _values(4, 3, 3, 3), **_NORM},
        {"Conv": 1},
    ),
    "batch norm after a grouped transposed convolution": Case(
        [_node("ConvTranspose", "x w", "a", group=2, strides=[2, 2]), _node("BatchNormalization", f"a {_BN}", "y")],
        {"w": _values(4, 2, 4, 4), **_NORM},
        {"ConvTranspose": 1},
        shape=(1, 4, 5, 5),
    ),
    "batch norm after Gemm": Case(
        [_node("Gemm", "x w b", "a", transB=1, beta=2.0), _node("BatchNormalization", f"a {_BN}", "y")],
        {"w": _values(4, 3), "b": _values(4), **_NORM},
        {"Gemm": 1},
        shape=(2, 3),
        rank=2,
    ),
    "scale and shift for each channel after a convolution": Case(
        [_node("Conv", "x w b", "a"), _node("Mul", "a s", "c"), _node("Add", "t c", "y")],
        {"w": _values(4, 3, 3, 3), "b": _values(4), "s": _values(1, 4, 1, 1), "t": _values(4, 1, 1)},
        {"Conv": 1},
    ),
    "scalar divided, constant minus the layer": Case(
        [_node("Conv", "x w", "a"), _node("Div", "a s", "c"), _node("Sub", "t c", "y")],
        {"w": _values(4, 3, 3, 3), "s": _values(), "t": _values(4, 1, 1)},
        {"Conv": 1},
    ),
    "scale after a grouped transposed convolution": Case(
        [_node("ConvTranspose", "x w", "a", group=2), _node("Mul", "s a", "c"), _node("Sub", "c t", "y")],
        {"w": _values(4, 3, 2, 2), "s": _values(6, 1, 1), "t": _values(6, 1, 1)},
        {"ConvTranspose": 1},
        shape=(1, 4, 5, 5),
    ),
    "scale after Gemm, whose terms have factors": Case(
        [_node("Gemm", "x w b", "a", alpha=0.5, beta=3.0), _node("Mul", "a s", "y")],
        {"w": _values(3, 4), "b": _values(4), "s": _values(4)},
        {"Gemm": 1},
        shape=(2, 3),
        rank=2,
    ),
    "constants through Reshape and Transpose": Case(
        [
            _node("Transpose", "w", "wt", perm=[3, 2, 0, 1]),
            _node("Conv", "x wt", "a"),
            _node("Reshape", "s to", "sr"),
            _node("Mul", "a sr", "y"),
        ],
        {"w": _values(3, 3, 3, 4), "s": _values(4), "to": np.array([1, 4, 1, 1])},
        {"Conv": 1},
    ),
    "identity and dropout": Case(
        [_node("Conv", "x w", "a"), _node("Dropout", "a", "b"), _node("Identity", "b", "c"), _node("Relu", "c", "y")],
        {"w": _values(4, 3, 3, 3)},
        {"Conv": 1, "Relu": 1},
    ),
    "weights that two layers share": Case(
        [
            _node("Conv", "x w", "a"),
            _node("Relu", "x", "r"),
            _node("Conv", "r w", "b"),
            _node("Mul", "a s", "c"),
            _node("Add", "b c", "y"),
        ],
        {"w": _values(4, 3, 3, 3), "s": _values(4, 1, 1)},
        {"Relu": 1, "Conv": 2, "Add": 1},
    ),
    "a result that is used elsewhere keeps its value": Case(
        [_node("Conv", "x w", "a"), _node("Mul", "a s", "b"), _node("Add", "a b", "y")],
        {"w": _values(4, 3, 3, 3), "s": _values(4, 1, 1)},
        {"Conv": 1, "Mul": 1, "Add": 1},
    ),
    "an output keeps its value": Case(
        [_node("Conv", "x w", "a"), _node("Mul", "a s", "y")],
        {"w": _values(4, 3, 3, 3), "s": _values(4, 1, 1)},
        {"Conv": 1, "Mul": 1},
        outputs=("a", "y"),
    ),
    "a constant that varies from place to place": Case(
        [_node("Conv", "x w", "a"), _node("Mul", "a s", "y")],
        {"w": _values(4, 3, 3, 3), "s": _values(1, 4, 4, 4)},
        {"Conv": 1, "Mul": 1},
    ),
    "one divided by a layer": Case(
        [_node("Conv", "x w b", "a"), _node("Div", "s a", "y")],
        {"w": _values(4, 3, 3, 3) * 0.01, "b": _values(4) * 9, "s": _values()},
        {"Conv": 1, "Div": 1},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_graph_and_its_normal_form_compute_the_same(case: Case) -> None:
    model = case.model()
    onnx.checker.check_model(model, full_check=True)
    before = model.SerializeToString()
    simplified, form = proved_normal_form(model, [{"x": case.images}])
    assert form.applied, form.reason
    assert form.largest_difference is not None
    assert form.largest_difference <= LARGEST_DIFFERENCE
    assert Counter(node.op_type for node in simplified.graph.node) == case.left
    assert (form.nodes_before, form.nodes_after) == (len(model.graph.node), sum(case.left.values()))
    assert [output.name for output in simplified.graph.output] == list(case.outputs)
    assert model.SerializeToString() == before  # the user's graph is left as it was
    again = normal_form(simplified)
    assert Counter(node.op_type for node in again.graph.node) == case.left


def _wrong(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    weight = other.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
    return other


def _broken(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.node[0].input[1] = "nowhere"
    return other


def _not_a_number(model: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(model)
    weight = other.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32("nan"), weight.name))
    return other


UNPROVED: dict[str, tuple[Callable[[onnx.ModelProto], onnx.ModelProto], str]] = {
    "computes something else": (_wrong, r"differs by 9\.\de-04"),
    "is no graph": (_broken, "nowhere"),
    "gives no numbers": (_not_a_number, "differs by nan"),
}


@pytest.mark.parametrize(("rewrite", "reason"), UNPROVED.values(), ids=UNPROVED)
def test_a_form_that_is_not_proved_equal_is_not_used_and_that_is_said(
    rewrite: Callable[[onnx.ModelProto], onnx.ModelProto],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = CASES["batch norm after a convolution"]
    model = case.model()
    monkeypatch.setattr(module, "normal_form", rewrite)
    with caplog.at_level(logging.WARNING):
        kept, form = proved_normal_form(model, [{"x": case.images}])
    assert kept is model
    assert not form.applied
    assert form.nodes_after == form.nodes_before
    assert re.search(reason, form.reason)
    assert "quantized as it is" in caplog.text


@pytest.mark.parametrize("fold", [True, False])
def test_quantization_says_what_it_simplified(fold: bool, tmp_path: Path) -> None:
    """The float graph that is stored beside the ranges is the simplified one, and computes what the user's does."""
    config, images = tiny.onnx_config(), tiny.smooth_images(3, tiny.onnx_config())
    source = tiny.write_onnx(tmp_path / "source.onnx")
    recipe = QuantizationRecipe(scheme="min_max", fold_batch_norms=fold, saturation_free=False)
    (out := tmp_path / "out").mkdir()
    files = quantize_model(config, recipe, source, [images], out, "cpu")
    operators = Counter(node.op_type for node in onnx.load(files.model).graph.node)
    assert ("BatchNormalization" in operators) is not fold
    if fold:
        assert files.normal_form is not None
        assert (files.normal_form.nodes_before, files.normal_form.nodes_after) == (6, 5)
    else:
        assert files.normal_form is None
    wanted, got = (
        np.asarray(ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": images[:1]})[0])
        for path in (source, files.model)
    )
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
