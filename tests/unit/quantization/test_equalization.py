"""Channels evened out over small real graphs: what is computed stays the same, and which channels move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.contract.onnx_session import inference_session
from hpe_tasks.errors import QuantizationError
from hpe_tasks.quantization import equalization, quantize_model
from hpe_tasks.quantization.equalization import equalized, proved_equalization
from support import tiny_networks as tiny

C = 8
SPREAD = 4.0 ** -np.arange(C)  # each channel a fourth of the one before


def _node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def _weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 1.0, shape).astype(np.float32)


def _spread(*shape: int, seed: int = 0) -> np.ndarray:
    """Weights whose output channels differ by far."""
    values = _weights(*shape, seed=seed)
    return (values * SPREAD.reshape(-1, *(1,) * (len(shape) - 1))).astype(np.float32)


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], outputs: tuple[str, ...] = ("y",)
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


FEEDS = [{"x": np.random.default_rng(seed).normal(size=(1, 3, 8, 8)).astype(np.float32)} for seed in range(2)]
STEM = _node("Conv", "x w0 b0", "a", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
STEM_WEIGHTS = {"w0": _spread(C, 3, 3, 3), "b0": (_weights(C) * SPREAD).astype(np.float32)}
LAST = {"w1": _weights(4, C, 1, 1, seed=9)}


@dataclass
class Case:
    """What stands between a layer whose channels differ and the last layer, which reads `z`.

    Attributes:
        moves: Whether factors get through it.
        tensor: One of those that are evened out, or kept.
    """

    nodes: list[onnx.NodeProto]
    constants: dict[str, Any]
    moves: bool = True
    tensor: str = "z"
    outputs: tuple[str, ...] = ("y",)
    last: int = C

    def model(self) -> onnx.ModelProto:
        last = LAST if self.last == C else {"w1": _weights(4, self.last, 1, 1)}
        nodes = [STEM, *self.nodes, _node("Conv", "z w1", "y")]
        return _model(nodes, {**STEM_WEIGHTS, **self.constants, **last}, self.outputs)


_SE = [
    _node("Relu", "a", "r"),
    _node("GlobalAveragePool", "r", "g"),
    _node("Conv", "g ws", "s"),
    _node("Relu", "s", "t"),
    _node("Conv", "t we", "e"),
    _node("Sigmoid", "e", "gate"),
]
_SHUFFLED = {"apart": np.array([1, 2, C // 2, 8, 8]), "back": np.array([0, -1, 8, 8])}

CASES = {
    "ReLU": Case([_node("Relu", "a", "z")], {}),
    "PReLU": Case([_node("PRelu", "a slope", "z")], {"slope": _weights(C, 1, 1)}),
    "leaky ReLU": Case([_node("LeakyRelu", "a", "z", alpha=0.1)], {}),
    "a clip that only bounds at zero": Case([_node("Clip", "a zero", "z")], {"zero": np.float32(0)}),
    "ReLU6": Case([_node("Clip", "a zero six", "z")], {"zero": np.float32(0), "six": np.float32(6)}, moves=False),
    "sigmoid": Case([_node("Sigmoid", "a", "z")], {}, moves=False),
    "swish": Case([_node("Sigmoid", "a", "s"), _node("Mul", "a s", "z")], {}),
    "hard swish": Case([_node("HardSigmoid", "a", "s"), _node("Mul", "s a", "z")], {}),
    "e-swish": Case(
        [_node("Mul", "a five", "b"), _node("Sigmoid", "a", "s"), _node("Mul", "b s", "z")], {"five": np.float32(1.25)}
    ),
    "a swish whose operand is read elsewhere": Case(
        [_node("Sigmoid", "a", "s"), _node("Mul", "a s", "m"), _node("Add", "m a", "z")], {}, moves=False
    ),
    "a swish behind a pool": Case(
        [_node("MaxPool", "a", "p", kernel_shape=[2, 2]), _node("Sigmoid", "p", "s"), _node("Mul", "p s", "z")],
        {},
        moves=False,
    ),
    "max pooling": Case([_node("MaxPool", "a", "z", kernel_shape=[2, 2], strides=[2, 2])], {}),
    "average pooling": Case(
        [_node("AveragePool", "a", "z", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)], {}
    ),
    "resize": Case(
        [_node("Resize", "a none none sizes", "z", mode="linear")],
        {"none": np.array([], np.float32), "sizes": np.array([1, C, 16, 16])},
    ),
    "resize by scales": Case(
        [helper.make_node("Resize", ["a", "", "scales"], ["z"], mode="nearest")],
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    "padding with zeros": Case([_node("Pad", "a pads", "z")], {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "padding with ones": Case(
        [_node("Pad", "a pads one", "z")],
        {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.float32(1)},
        moves=False,
    ),
    "a depthwise layer": Case([_node("Conv", "a wd", "z", group=C)], {"wd": _weights(C, 1, 3, 3)}, tensor="a"),
    "a grouped layer": Case([_node("Conv", "a wg", "z", group=2)], {"wg": _weights(C, C // 2, 1, 1)}, tensor="a"),
    "a transposed layer": Case([_node("ConvTranspose", "a wt", "z")], {"wt": _weights(C, C, 2, 2)}, tensor="a"),
    "a grouped transposed layer": Case(
        [_node("ConvTranspose", "a wt", "z", group=2)], {"wt": _weights(C, C // 2, 2, 2)}, tensor="a"
    ),
    "a depthwise transposed layer": Case(
        [_node("ConvTranspose", "a wt", "z", group=C)], {"wt": _weights(C, 1, 2, 2)}, tensor="a"
    ),
    "a sum of two layers": Case(
        [_node("Conv", "x w2", "b", pads=[1, 1, 1, 1]), _node("Add", "a b", "z")], {"w2": _spread(C, 3, 3, 3, seed=5)}
    ),
    "a sum with a constant": Case([_node("Add", "a shift", "z")], {"shift": _weights(1, C, 1, 1) * np.float32(1e-3)}),
    "a constant minus it": Case([_node("Sub", "shift a", "z")], {"shift": np.float32(1e-4)}),
    "a sum with a picture": Case([_node("Add", "a picture", "z")], {"picture": _weights(1, C, 8, 8)}, moves=False),
    "a product with a constant": Case([_node("Mul", "a k", "z")], {"k": _weights(C, 1, 1)}),
    "a constant divided by it": Case([_node("Div", "one a", "z")], {"one": np.float32(1)}, moves=False),
    "a product with itself": Case([_node("Mul", "a a", "z")], {}, moves=False),
    "concatenation": Case(
        [_node("Conv", "x w2", "b", pads=[1, 1, 1, 1]), _node("Concat", "a b", "z", axis=1)],
        {"w2": _weights(C, 3, 3, 3, seed=5)},
        last=2 * C,
    ),
    "split and joined the other way round": Case(
        [_node("Split", "a", "p q", axis=1), _node("Concat", "q p", "z", axis=1)], {}
    ),
    "a channel shuffle": Case(
        [
            _node("Reshape", "a apart", "five"),
            _node("Transpose", "five", "turned", perm=[0, 2, 1, 3, 4]),
            _node("Reshape", "turned back", "z"),
        ],
        _SHUFFLED,
    ),
    "rows for channels": Case(
        [
            _node("Reshape", "a apart", "five"),
            _node("Transpose", "five", "turned", perm=[0, 3, 2, 1, 4]),
            _node("Reshape", "turned back", "z"),
        ],
        {"apart": np.array([1, 2, C // 2, 8, 8]), "back": np.array([1, C, 8, 8])},
        moves=False,
    ),
    "squeeze and excitation": Case(
        [*_SE, _node("Mul", "r gate", "z")], {"ws": _weights(4, C, 1, 1), "we": _weights(C, 4, 1, 1)}
    ),
    "the gate of squeeze and excitation": Case(
        [*_SE, _node("Mul", "r gate", "z")],
        {"ws": _weights(4, C, 1, 1), "we": _weights(C, 4, 1, 1)},
        moves=False,
        tensor="gate",
    ),
    "a mean over the picture": Case(
        [_node("ReduceMean", "a", "m", axes=[2, 3], keepdims=1), _node("Add", "a m", "z")], {}
    ),
    "an output of the network": Case([_node("Relu", "a", "z")], {}, moves=False, outputs=("z", "y")),
}


def _values(model: onnx.ModelProto, name: str) -> np.ndarray:
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    if name not in {output.name for output in exposed.graph.output}:
        exposed.graph.output.append(onnx.ValueInfoProto(name=name))
    session = inference_session(exposed.SerializeToString(), optimized=False)
    return np.concatenate([np.asarray(session.run([name], feed)[0]) for feed in FEEDS])


def _reach(values: np.ndarray) -> np.ndarray:
    return np.abs(values).max(axis=(0, 2, 3))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_computed_stays_the_same(case: Case) -> None:
    model = case.model()
    before = model.SerializeToString()
    changed, moved = equalized(model, FEEDS)
    onnx.checker.check_model(changed, full_check=True)
    assert model.SerializeToString() == before
    for output in case.outputs:
        wanted = _values(model, output)
        np.testing.assert_allclose(_values(changed, output), wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    was, now = _reach(_values(model, case.tensor)), _reach(_values(changed, case.tensor))
    assert now.max() == pytest.approx(was.max())  # no range grows
    if not case.moves:
        np.testing.assert_allclose(now, was, rtol=1e-6)
        return
    assert moved > 0
    factors = now[was > 0] / was[was > 0]
    np.testing.assert_allclose(np.log2(factors), np.rint(np.log2(factors)), atol=1e-4)
    assert factors.max() >= 4


def test_channels_before_a_depthwise_layer_get_all_of_the_range() -> None:
    """Its weights have a scale for each channel: what they are divided by costs nothing."""
    nodes = [STEM, _node("Conv", "a wd", "z", group=C), _node("Conv", "z w1", "y")]
    changed, _ = equalized(_model(nodes, {**STEM_WEIGHTS, "wd": _weights(C, 1, 3, 3), **LAST}), FEEDS)
    reach = _reach(_values(changed, "a"))
    assert (reach > reach.max() / 2.001).all()
    # A dense one shares the load: its weights shrink by what the channels grow.
    reach = _reach(_values(changed, "z"))
    assert 2**-8 * reach.max() < reach.min() < 2**-5 * reach.max()


def test_an_e_swish_costs_no_multiplication_more() -> None:
    model = CASES["e-swish"].model()
    changed, _ = equalized(model, FEEDS)
    assert [node.op_type for node in changed.graph.node] == ["Conv", "Mul", "Sigmoid", "Mul", "Conv"]
    assert "five" not in {t.name for t in changed.graph.initializer}
    (gear,) = (t for t in changed.graph.initializer if list(t.dims) == [1, C, 1, 1])
    powers = np.log2(numpy_helper.to_array(gear) * 1.25)
    np.testing.assert_allclose(powers, np.rint(powers), atol=1e-5)


def test_a_swish_whose_channels_are_alike_is_left_alone() -> None:
    nodes = [STEM, _node("Sigmoid", "a", "s"), _node("Mul", "a s", "z"), _node("Conv", "z w1", "y")]
    weights = _weights(1, 3, 3, 3).repeat(C, axis=0)
    model = _model(nodes, {"w0": weights, "b0": np.zeros(C, np.float32), **LAST})
    changed, moved = equalized(model, FEEDS)
    assert moved == 0
    assert changed.SerializeToString() == model.SerializeToString()


def test_weights_that_layers_share_are_changed_for_each_alone() -> None:
    nodes = [
        STEM,
        _node("Relu", "a", "r"),
        _node("Conv", "r w2", "p"),
        _node("Conv", "p w2", "q"),
        _node("Add", "q p", "z"),
        _node("Conv", "z w1", "y"),
    ]
    model = _model(nodes, {**STEM_WEIGHTS, "w2": _weights(C, C, 1, 1), **LAST})
    changed, moved = equalized(model, FEEDS)
    assert moved > 0
    wanted = _values(model, "y")
    np.testing.assert_allclose(_values(changed, "y"), wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def _wrong(model: onnx.ModelProto, _: Any) -> tuple[onnx.ModelProto, int]:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    weight = changed.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    return changed, 3


def _broken(_: onnx.ModelProto, __: Any) -> tuple[onnx.ModelProto, int]:
    raise ValueError("the size of a depends on the image")


UNPROVED: dict[str, tuple[Callable[..., Any], str]] = {
    "computes something else": (_wrong, "differs by"),
    "cannot be made": (_broken, "depends on the image"),
}


@pytest.mark.parametrize(("change", "reason"), UNPROVED.values(), ids=UNPROVED)
def test_a_graph_that_is_not_proved_equal_is_kept_as_it_was(
    change: Callable[..., Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CASES["ReLU"].model()
    monkeypatch.setattr(equalization, "equalized", change)
    kept, said = proved_equalization(model, FEEDS)
    assert kept is model
    assert not said.applied
    assert reason in said.reason


def test_a_graph_without_such_channels_says_so() -> None:
    model = CASES["sigmoid"].model()
    kept, said = proved_equalization(model, FEEDS)
    assert kept is model
    assert (said.applied, said.channels) == (False, 0)
    assert "no channel can be multiplied" in said.reason


_STEPS = ("Relu", "MaxPool", "LeakyRelu", "Sigmoid", "conv", "depthwise", "add", "mul", "concat", "gate", "clip")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(st.sampled_from(_STEPS), st.integers(0, 5), st.integers(0, 5)), max_size=10))
def test_random_graphs_compute_the_same(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is put together of these, with every tensor of the same size."""
    nodes, constants, tensors = [STEM], dict(STEM_WEIGHTS), ["a"]
    constants |= {"six": np.float32(6), "zero": np.float32(0)}
    for number, (kind, one, other) in enumerate(steps):
        first, second = (tensors[place % len(tensors)] for place in (one, other))
        name, weight = f"t{number}", f"w_{number}"
        if kind in {"conv", "depthwise"}:
            depth, group = (C, 1) if kind == "conv" else (1, C)
            constants[weight] = _spread(C, depth, 3, 3, seed=number) * np.float32(0.3)
            nodes.append(_node("Conv", f"{first} {weight}", name, group=group, pads=[1, 1, 1, 1]))
        elif kind in {"add", "mul"}:
            nodes.append(_node(kind.capitalize(), f"{first} {second}", name))
        elif kind == "concat":
            constants[weight] = _spread(C, 2 * C, 1, 1, seed=number)
            nodes.append(_node("Concat", f"{first} {second}", f"{name}_joined", axis=1))
            nodes.append(_node("Conv", f"{name}_joined {weight}", name))
        elif kind == "gate":
            nodes.append(_node("Sigmoid", second, f"{name}_gate"))
            nodes.append(_node("Mul", f"{first} {name}_gate", name))
        elif kind == "clip":
            nodes.append(_node("Clip", f"{first} zero six", name))
        elif kind == "MaxPool":
            nodes.append(_node("MaxPool", first, name, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        else:
            nodes.append(_node(kind, first, name))
        tensors.append(name)
    nodes.append(_node("Conv", f"{tensors[-1]} w1", "y"))
    used = {name for node in nodes for name in node.input}
    model = _model(nodes, {name: values for name, values in {**constants, **LAST}.items() if name in used})
    changed, _ = equalized(model, FEEDS)
    wanted = _values(model, "y")
    np.testing.assert_allclose(_values(changed, "y"), wanted, rtol=0, atol=1e-5 * max(np.abs(wanted).max(), 1e-30))


def test_a_recipe_asks_for_it_and_the_record_says_what_came_of_it(tmp_path: Path) -> None:
    config, images = tiny.onnx_config(), tiny.smooth_images(3, tiny.onnx_config())
    source = tiny.write_onnx(tmp_path / "source.onnx")
    recipe = QuantizationRecipe(scheme="min_max", channel_equalization=True)
    assert recipe.name.endswith("even_channels")
    (out := tmp_path / "out").mkdir()
    files = quantize_model(config, recipe, source, [images], out, "cpu")
    assert files.normal_form is not None
    assert files.normal_form.equalization is not None
    # Its two activations are bounded at six.
    assert "no channel can be multiplied" in files.normal_form.equalization.reason
    network = tiny.mobilenet_config()
    checkpoint = tiny.write_checkpoint(tmp_path / "weights.safetensors", network)
    with pytest.raises(QuantizationError, match="is for ONNX files"):
        quantize_model(network, recipe, checkpoint, [tiny.smooth_images(2, network)], out, "cpu")
