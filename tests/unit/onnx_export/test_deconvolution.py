from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.models import build_model
from hpe_tasks.models.checkpoint import load_checkpoint
from hpe_tasks.onnx_export import check_onnx, export_onnx
from hpe_tasks.onnx_export.deconvolution import split_deconvolutions
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.onnx_runtime.session import onnx_predictor
from hpe_tasks.quantization import QuantizedFiles, load_quantsim, quantize_model
from support import tiny_networks as tiny
from support.efficientpose import efficientpose

pytestmark = pytest.mark.usefixtures("one_thread")

MIN_MAX = QuantizationRecipe(scheme="min_max")
EXACT = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
FAST = ort.GraphOptimizationLevel.ORT_ENABLE_ALL

SAID: dict[str, dict[str, Any]] = {
    "pads": {"pads": [1, 1, 1, 1]},
    "all": {"pads": [1, 1, 1, 1], "kernel_shape": [4, 4], "dilations": [1, 1], "output_padding": [0, 0]},
    "same-upper": {"auto_pad": "SAME_UPPER"},
    "same-lower": {"auto_pad": "SAME_LOWER"},
    "output-shape": {"output_shape": "doubled"},
}
"""Ways to say that the result is twice the input."""


def _layer(
    *,
    channels: tuple[int, int] = (3, 5),
    size: tuple[int, int] = (4, 3),
    depthwise: bool = False,
    bias: bool = True,
    activation: Literal["Relu", "Clip"] | None = "Relu",
    said: str = "pads",
    quantized: Literal["per_channel", "per_tensor"] | None = None,
    powers_of_two: bool = True,
    seed: int = 0,
    **changed: Any,
) -> onnx.ModelProto:
    """x → ConvTranspose → activation → y, in float or between quantize-dequantize pairs with 8-bit codes."""
    rng = np.random.default_rng(seed)
    c_in, c_out = (channels[0], channels[0]) if depthwise else channels
    per_group = 1 if depthwise else c_out
    constants: dict[str, np.ndarray] = {"low": np.array(0, np.float32), "high": np.array(0.4, np.float32)}
    nodes: list[onnx.NodeProto] = []
    # The sum of the 4·C_in products of a pixel stays below 1.
    scale = 1 if quantized is None else 2.0**-7
    if quantized is None:
        taps = rng.uniform(-1, 1, (c_in, per_group, 4, 4)) / (4 * (1 if depthwise else c_in))
        constants |= {"w": taps.astype(np.float32), "b": (rng.normal(size=c_out) * 0.1).astype(np.float32)}
        names = ["x", "w", "b"]
    else:
        exponents = rng.integers(-9, -6, c_out if quantized == "per_channel" else ())
        scales = np.exp2(exponents).astype(np.float32)
        if not powers_of_two:
            scales, scale = (scales * 1.37).astype(np.float32), scale * 1.23
        constants |= {
            "xs": np.array(scale, np.float32),
            "xz": np.array(117, np.uint8),
            # Two products of such codes stay in 16 bits, whatever the kernel adds them in.
            "w": rng.integers(-64, 65, (c_in, per_group, 4, 4)).astype(np.int8),
            "ws": scales,
            "wz": np.zeros(scales.shape, np.int8),
            "b": rng.integers(-5000, 5000, c_out).astype(np.int32),
            "bs": np.broadcast_to(scales * np.float32(scale), c_out).astype(np.float32),
            "bz": np.zeros(c_out, np.int32),
            "ys": np.array(2.0**-4 if powers_of_two else 0.071, np.float32),
            "yz": np.array(0 if activation else 121, np.uint8),
        }
        axis: dict[str, Any] = {} if quantized == "per_tensor" else {"axis": 0 if depthwise else 1}
        nodes += [
            helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], **axis),
            *([helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0)] if bias else []),
        ]
        names = ["xd", "wd", "bd"]
    attributes: dict[str, Any] = {"strides": [2, 2], "group": c_in if depthwise else 1, **SAID[said], **changed}
    if attributes.get("output_shape") == "doubled":
        attributes["output_shape"] = [2 * side for side in size]
    nodes.append(helper.make_node("ConvTranspose", names if bias else names[:2], ["t"], name="layer", **attributes))
    last = "t"
    if activation is not None:
        inputs = [last] if activation == "Relu" else [last, "low", "high"]
        nodes.append(helper.make_node(activation, inputs, ["r"]))
        last = "r"
    if quantized is not None:
        nodes += [
            helper.make_node("QuantizeLinear", [last, "ys", "yz"], ["yq"]),
            helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["yd"]),
        ]
        last = "yd"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", c_in, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", c_out, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _split(model: onnx.ModelProto) -> onnx.ModelProto:
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    split_deconvolutions(rewritten)
    onnx.checker.check_model(rewritten, full_check=True)
    return rewritten


def _operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def _run(model: onnx.ModelProto, images: np.ndarray, level: ort.GraphOptimizationLevel = EXACT) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = level
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(result) for result in session.run(None, {session.get_inputs()[0].name: images})]


def _images(model: onnx.ModelProto, count: int = 2, seed: int = 1) -> np.ndarray:
    dims = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).uniform(-1, 1, (count, *dims[1:])).astype(np.float32)


LAYERS = st.fixed_dictionaries(
    {
        "channels": st.tuples(st.integers(1, 9), st.integers(1, 9)),
        "size": st.tuples(st.integers(1, 7), st.integers(1, 7)),
        "depthwise": st.booleans(),
        "bias": st.booleans(),
        "activation": st.sampled_from([None, "Relu", "Clip"]),
        "said": st.sampled_from(sorted(SAID)),
        "seed": st.integers(0, 1000),
    }
)


@settings(max_examples=60, deadline=None)
@given(fields=LAYERS)
def test_float_layers_compute_the_same(fields: dict[str, Any]) -> None:
    model = _layer(**fields)
    rewritten = _split(model)
    assert "ConvTranspose" not in _operators(rewritten)
    assert _operators(rewritten).count("DepthToSpace") == 1
    images = _images(model)
    (expected,), (result,) = _run(model, images), _run(rewritten, images)
    assert expected.shape[2:] == tuple(2 * side for side in images.shape[2:])
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(fields=LAYERS, granularity=st.sampled_from(["per_channel", "per_tensor"]))
def test_quantized_layers_give_the_same_codes(fields: dict[str, Any], granularity: Any) -> None:
    """Scales are powers of two, so that float arithmetic is exact in any order of the sums: all codes must agree."""
    model = _layer(
        **{**fields, "activation": None if fields["activation"] == "Clip" else fields["activation"]},
        quantized=granularity,
    )
    rewritten = _split(model)
    images = _images(model)
    (expected,) = _run(model, images)
    assert len(np.unique(expected)) > 1 or expected.size < 40
    np.testing.assert_array_equal(_run(rewritten, images)[0], expected)
    np.testing.assert_array_equal(_run(rewritten, images, FAST)[0], expected)


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_with_any_scales_only_sums_on_the_border_of_two_codes_differ(granularity: Any, depthwise: bool) -> None:
    model = _layer(channels=(32, 24), size=(12, 9), depthwise=depthwise, quantized=granularity, powers_of_two=False)
    rewritten = _split(model)
    images = _images(model)
    for level in (EXACT, FAST):
        (expected,), (result,) = _run(model, images, level), _run(rewritten, images, level)
        codes = np.abs(np.rint(expected / 0.071) - np.rint(result / 0.071))
        assert codes.max() <= 1
        assert np.count_nonzero(codes) <= 1e-3 * codes.size


@pytest.mark.parametrize("depthwise", [False, True], ids=["dense", "depthwise"])
def test_codes_scales_and_zero_points_only_move(depthwise: bool) -> None:
    model = _layer(channels=(6, 4), depthwise=depthwise, quantized="per_channel")
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rewritten = _split(model)
    after = {t.name: numpy_helper.to_array(t) for t in rewritten.graph.initializer}
    # The phases share everything but their taps.
    assert before.keys() - after.keys() == {"w"}
    for name in before.keys() & after.keys():
        np.testing.assert_array_equal(after[name], before[name])
    added = [after[name] for name in sorted(after.keys() - before.keys()) if after[name].dtype != np.int64]
    assert [taps.dtype for taps in added] == [np.int8] * 4
    assert {taps.shape for taps in added} == {(6, 1, 2, 2) if depthwise else (4, 6, 2, 2)}
    moved = added if depthwise else [taps.swapaxes(0, 1) for taps in added]
    for channel_in in range(6):
        for channel_out in range(1 if depthwise else 4):
            taps = np.concatenate([phase[channel_in, channel_out].ravel() for phase in moved])
            assert sorted(taps) == sorted(before["w"][channel_in, channel_out].ravel())
    kernels = [n for n in rewritten.graph.node if n.op_type == "DequantizeLinear" and n.input[1] == "ws"]
    assert [helper.get_node_attr_value(node, "axis") for node in kernels] == [0, 0, 0, 0]
    assert [n.input[2] for n in rewritten.graph.node if n.op_type == "Conv"] == ["bd"] * 4


@pytest.mark.parametrize(("size_is_known", "mover"), [(True, "Reshape"), (False, "DepthToSpace")])
def test_between_codes_nothing_is_float(size_is_known: bool, mover: str) -> None:
    model = _layer(quantized="per_channel")
    if not size_is_known:
        for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            dim.ClearField("dim_value")
    for level in (EXACT, FAST):
        types = _types(_split(model), level)
        assert types["Concat"] == types[mover] == {TensorProto.UINT8}
    fast = _types(_split(model), FAST)
    assert "Conv" not in fast
    assert fast["QLinearConv"] == {TensorProto.UINT8}
    assert fast.keys() & {"DepthToSpace", "Reshape"} == {mover}


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_phases_are_interleaved_without_a_transposition(batch: int | None) -> None:
    """Nothing is transposed but what comes in, and what goes out to those who want channels first."""
    model = _layer(quantized="per_channel")
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    dim.ClearField("dim_value") if batch is None else setattr(dim, "dim_value", batch)
    rewritten = _split(model)
    images = np.resize(_images(model), (batch or 2, *_images(model).shape[1:]))
    for level in (EXACT, FAST):
        np.testing.assert_array_equal(_run(rewritten, images, level)[0], _run(model, images, level)[0])
    assert _operators(_optimized(rewritten, FAST)).count("Transpose") == 2


def _optimized(model: onnx.ModelProto, level: ort.GraphOptimizationLevel) -> onnx.ModelProto:
    """The graph that onnxruntime runs."""
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        options.log_severity_level = 3
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _types(model: onnx.ModelProto, level: ort.GraphOptimizationLevel) -> dict[str, set[int]]:
    """Types of all results by operator, in the graph that onnxruntime runs."""
    optimized = _optimized(model, level)
    probe = onnx.ModelProto()
    probe.CopyFrom(optimized)
    known = {o.name for o in probe.graph.output}
    nodes = [node for node in optimized.graph.node if node.output[0] not in known]
    probe.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in nodes)
    options = ort.SessionOptions()
    options.graph_optimization_level = EXACT
    session = ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    by_name = {"tensor(float)": TensorProto.FLOAT, "tensor(uint8)": TensorProto.UINT8, "tensor(int8)": TensorProto.INT8}
    types = {output.name: by_name[output.type] for output in session.get_outputs()}
    found: dict[str, set[int]] = {}
    for node in optimized.graph.node:
        found.setdefault(node.op_type, set()).add(types[node.output[0]])
    return found


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"pads": [0, 0, 0, 0]}, id="no-padding"),
        pytest.param({"pads": [1, 1, 2, 2]}, id="uneven-padding"),
        pytest.param({"output_padding": [1, 1]}, id="output-padding"),
        pytest.param({"dilations": [2, 2]}, id="dilated"),
        pytest.param({"strides": [1, 1]}, id="stride-1"),
        pytest.param({"strides": [2, 1]}, id="stride-2-in-one-axis"),
        pytest.param({"auto_pad": "VALID", "pads": None}, id="valid"),
        pytest.param({"output_shape": [9, 7]}, id="other-output-shape"),
        pytest.param({"channels": (4, 3), "group": 2}, id="grouped"),
        pytest.param({"channels": (6, 2), "group": 3}, id="three-groups"),
    ],
)
@pytest.mark.parametrize("quantized", [None, "per_tensor"], ids=["float", "quantized"])
def test_other_transposed_convolutions_stay_as_they_are(changed: dict[str, Any], quantized: Any) -> None:
    fields = {key: changed[key] for key in ("channels",) if key in changed}
    model = _layer(quantized=quantized, bias=False, **fields, **{k: v for k, v in changed.items() if k not in fields})
    before = model.SerializeToString()
    split_deconvolutions(model)
    assert model.SerializeToString() == before
    if "group" not in changed:
        assert _run(model, _images(model))[0].size


def test_another_kernel_or_one_that_is_computed_stays_as_it_is() -> None:
    small = _layer(bias=False)
    small.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((3, 5, 3, 3), np.float32), "w"))
    computed = _layer(bias=False)
    computed.graph.node.insert(0, helper.make_node("Neg", ["w"], ["minus_w"]))
    computed.graph.node[1].input[1] = "minus_w"
    unknown = _layer(said="output-shape")
    unknown.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    for model in (small, computed, unknown):
        before = model.SerializeToString()
        split_deconvolutions(model)
        assert model.SerializeToString() == before


def _scaled(
    model: onnx.ModelProto, operator: str, scale: str, scales: np.ndarray, **attributes: Any
) -> onnx.ModelProto:
    """Other scales, with zero points of the same shape, for the quantizers that have `scale`; opset 21 has blocks."""
    model.opset_import[0].version, model.ir_version = 21, 10
    tensors = {t.name: t for t in model.graph.initializer}
    zero = f"{scale[0]}z"
    dtype = numpy_helper.to_array(tensors[zero]).dtype
    tensors[scale].CopyFrom(numpy_helper.from_array(scales.astype(np.float32), scale))
    tensors[zero].CopyFrom(numpy_helper.from_array(np.zeros(scales.shape, dtype), zero))
    for node in model.graph.node:
        if node.op_type == operator and node.input[1] == scale:
            del node.attribute[:]
            node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def _powers(*shape: int) -> np.ndarray:
    return np.exp2(-7.0 - np.arange(np.prod(shape)).reshape(shape) % 3)


@pytest.mark.parametrize(
    ("depthwise", "shape", "attributes", "rewritten"),
    [
        pytest.param(False, (4,), {"axis": 1}, True, id="dense-output-channels"),
        pytest.param(False, (4,), {"axis": -3}, True, id="dense-output-channels-from-the-end"),
        pytest.param(False, (4,), {}, True, id="dense-output-channels-by-default"),
        pytest.param(False, (1,), {"axis": 0}, True, id="dense-list-of-one"),
        pytest.param(False, (), {}, True, id="dense-one-scale"),
        pytest.param(True, (4,), {"axis": 0}, True, id="depthwise-output-channels"),
        pytest.param(True, (4,), {"axis": -4}, True, id="depthwise-output-channels-from-the-end"),
        pytest.param(False, (4,), {"axis": 0}, False, id="dense-input-channels"),
        pytest.param(False, (4,), {"axis": -4}, False, id="dense-input-channels-from-the-end"),
        pytest.param(False, (4,), {"axis": 2}, False, id="dense-rows"),
        pytest.param(True, (4,), {"axis": -1}, False, id="depthwise-columns"),
        pytest.param(False, (4, 2, 4, 4), {"axis": 1, "block_size": 2}, False, id="dense-blocks"),
        pytest.param(True, (2, 1, 4, 4), {"axis": 0, "block_size": 2}, False, id="depthwise-blocks"),
    ],
)
def test_only_scales_of_output_channels_follow_the_taps(
    depthwise: bool, shape: tuple[int, ...], attributes: dict[str, int], rewritten: bool
) -> None:
    layer = _layer(channels=(4, 4), size=(5, 3), depthwise=depthwise, bias=False, quantized="per_tensor")
    model = _scaled(layer, "DequantizeLinear", "ws", _powers(*shape), **attributes)
    images = _images(model)
    (expected,) = _run(model, images)
    assert len(np.unique(expected)) > 3
    split = _split(model)
    assert ("ConvTranspose" not in _operators(split)) == rewritten
    for level in (EXACT, FAST):
        np.testing.assert_array_equal(_run(split, images, level)[0], expected)
    if not rewritten:
        assert split.SerializeToString() == model.SerializeToString()


def test_a_kernel_whose_scale_is_computed_stays_as_it_is() -> None:
    model = _layer(bias=False, quantized="per_tensor")
    model.graph.node.insert(0, helper.make_node("Abs", ["ws"], ["positive"]))
    next(node for node in model.graph.node if node.output[0] == "wd").input[1] = "positive"
    before = model.SerializeToString()
    split_deconvolutions(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize(
    ("shape", "attributes", "moved"),
    [
        pytest.param((), {}, True, id="one-scale"),
        pytest.param((4,), {}, True, id="channels-by-default"),
        pytest.param((4,), {"axis": -3}, True, id="channels-from-the-end"),
        pytest.param((10,), {"axis": 2}, False, id="rows"),
        pytest.param((6,), {"axis": -1}, False, id="columns"),
        pytest.param((2, 2, 10, 6), {"axis": 1, "block_size": 2}, False, id="blocks"),
    ],
)
def test_quantizers_of_rows_and_columns_stay_behind_the_phases(
    shape: tuple[int, ...], attributes: dict[str, int], moved: bool
) -> None:
    layer = _layer(channels=(4, 4), size=(5, 3), bias=False, quantized="per_tensor")
    scales = _powers(*shape) * 8
    model = layer
    for operator in ("QuantizeLinear", "DequantizeLinear"):
        model = _scaled(model, operator, "ys", scales, **attributes)
    images = _images(model)
    (expected,) = _run(model, images)
    assert len(np.unique(expected)) > 3
    split = _split(model)
    operators = _operators(split)
    assert "ConvTranspose" not in operators
    assert operators.count("QuantizeLinear") == (5 if moved else 2)
    for level in (EXACT, FAST):
        np.testing.assert_array_equal(_run(split, images, level)[0], expected)


def test_shared_weights_and_results_stay_right() -> None:
    """Two layers share kernel, scales and bias; one result goes to an activation, another layer and an output."""
    model = _layer(channels=(4, 4), size=(5, 3), quantized="per_channel", activation="Relu")
    graph = model.graph
    graph.node.extend(
        [
            helper.make_node("ConvTranspose", ["yd", "wd", "bd"], ["t2"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["t2"], ["r2"]),
            helper.make_node("Neg", ["t2"], ["n2"]),
            helper.make_node("ReduceSum", ["wd"], ["w_sum"], keepdims=0),
            helper.make_node("ReduceSum", ["r"], ["r_sum"], keepdims=0),
        ]
    )
    maps = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("r2", "n2", "t")]
    graph.output.extend(maps)
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in ("w_sum", "r_sum"))
    rewritten = _split(model)
    assert "ConvTranspose" not in _operators(rewritten)
    assert _operators(rewritten).count("DepthToSpace") == 2
    assert "w" in {t.name for t in rewritten.graph.initializer}
    images = _images(model)
    for level in (EXACT, FAST):
        for result, expected in zip(_run(rewritten, images, level), _run(model, images), strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_sixteen_bit_codes_are_made_behind_the_phases() -> None:
    """onnxruntime moves 8-bit codes and floats, but no 16-bit codes."""
    model = _layer(quantized="per_channel", activation="Relu")
    model.opset_import[0].version = 21
    zero = next(t for t in model.graph.initializer if t.name == "yz")
    zero.CopyFrom(numpy_helper.from_array(np.array(0, np.uint16), "yz"))
    rewritten = _split(model)
    operators = _operators(rewritten)
    assert operators.index("DepthToSpace") < operators.index("QuantizeLinear", 1)
    images = _images(model)
    np.testing.assert_array_equal(_run(rewritten, images)[0], _run(model, images)[0])


def users_deconvolutions(*, joints: int = 5) -> onnx.ModelProto:
    """A user's network: a convolution, a dense and a depthwise transposed one, and heatmaps of the input's size × 2."""
    rng = np.random.default_rng(0)

    def weight(name: str, *dims: int) -> onnx.TensorProto:
        # Output channels of very different ranges, as batch norms leave them: one scale for all would lose most.
        gains = np.exp2(rng.integers(-5, 1, (1, dims[1]) if name == "up1.w" else (dims[0], 1)))
        values = rng.normal(size=dims) * 0.3 * gains.reshape(*gains.shape, *([1] * (len(dims) - 2)))
        return numpy_helper.from_array(values.astype(np.float32), name)

    constants = [
        weight("stem.w", 8, 3, 3, 3),
        weight("up1.w", 8, 6, 4, 4),
        numpy_helper.from_array(rng.normal(size=6).astype(np.float32) * 0.1, "up1.b"),
        weight("up2.w", 6, 1, 4, 4),
        numpy_helper.from_array(rng.normal(size=6).astype(np.float32) * 0.1, "up2.b"),
        weight("head.w", joints, 6, 1, 1),
    ]
    nodes = [
        helper.make_node("Conv", ["image", "stem.w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "up1.w", "up1.b"], ["c"], strides=[2, 2], auto_pad="SAME_UPPER"),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("ConvTranspose", ["d", "up2.w", "up2.b"], ["e"], strides=[2, 2], pads=[1, 1, 1, 1], group=6),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Conv", ["f", "head.w"], ["heatmaps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "users",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 64])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["n", joints, 64, 128])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _export_both(
    config: ModelConfig, recipe: QuantizationRecipe, source: Path, images: np.ndarray, folder: Path
) -> tuple[QuantizedFiles, Path, Path]:
    """The quantized files, the export with ConvTranspose and the one with phases."""
    out = folder / "quantsim"
    out.mkdir()
    files = quantize_model(config, recipe, source, [images], out, "cpu")
    paths = []
    for on in (False, True):
        exported = folder / f"phases-{on}"
        exported.mkdir()
        switched = recipe.model_copy(update={"subpixel_deconvolution": on})
        paths.append(export_onnx(config, switched, files.model, files.encodings, exported))
        check_onnx(paths[-1])
    return files, paths[0], paths[1]


def _assert_same_file_but_faster(plain: Path, phases: Path, images: np.ndarray) -> None:
    before, after = onnx.load(plain), onnx.load(phases)
    assert "ConvTranspose" in _operators(before)
    assert "ConvTranspose" not in _operators(after)
    assert [str(i) for i in after.graph.input] == [str(i) for i in before.graph.input]
    assert [str(o) for o in after.graph.output] == [str(o) for o in before.graph.output]
    assert phases.stat().st_size < plain.stat().st_size + 64_000
    for level in (EXACT, FAST):
        (expected,), (result,) = _run(before, images, level), _run(after, images, level)
        step = np.diff(np.unique(expected)).min()
        # Sums on the border of two codes may round the other way: float sums of the same products in another order.
        assert np.abs(result - expected).max() <= 1.01 * step
        assert np.count_nonzero(np.abs(result - expected) > 0.5 * step) <= 0.01 * result.size
    audit = audit_placement(phases)
    assert audit.float_operators == ()
    assert audit.int8_mac_share == 1
    assert audit.total_macs <= audit_placement(plain).total_macs
    types = _types(after, FAST)
    assert types["Concat"] == types["Reshape"] == types["QLinearConv"] == {TensorProto.UINT8}
    assert "DepthToSpace" not in types
    assert types.keys() & {"Conv", "FusedConv", "ConvTranspose"} == set()
    assert [op for op, kinds in types.items() if TensorProto.FLOAT in kinds] == ["DequantizeLinear"]


@pytest.mark.parametrize(
    ("config", "recipe"),
    [
        pytest.param(tiny.mobilenet_config(), MIN_MAX, id="mobilenet-per-channel"),
        pytest.param(
            tiny.mobilenet_config(),
            QuantizationRecipe(scheme="min_max", granularity="per_tensor"),
            id="mobilenet-per-tensor",
        ),
        pytest.param(
            tiny.mobilenet_config(architecture="pose_resnet_18"), MIN_MAX, id="resnet", marks=pytest.mark.long
        ),
    ],
)
def test_whole_networks_give_the_same_maps_in_int8_alone(
    config: ModelConfig, recipe: QuantizationRecipe, tmp_path: Path
) -> None:
    source = tiny.write_checkpoint(tmp_path / "weights.safetensors", config)
    _, plain, phases = _export_both(config, recipe, source, tiny.smooth_images(4, config), tmp_path)
    _assert_same_file_but_faster(plain, phases, tiny.smooth_images(2, config, seed=5))


@pytest.mark.parametrize("architecture", ["pose_mobilenet", "pose_resnet_18"])
def test_whole_float_networks_compute_the_same(architecture: str, tmp_path: Path) -> None:
    """torch exports tensors of equal values once, as kernels of several layers that a network starts out with are."""
    config = tiny.mobilenet_config(architecture=architecture)
    network = build_model(config)
    load_checkpoint(network, tiny.write_checkpoint(tmp_path / "weights.safetensors", config))
    images = tiny.smooth_images(2, config, seed=5)
    torch.onnx.export(
        network.eval(), (torch.from_numpy(images),), str(tmp_path / "model.onnx"), opset_version=17, dynamo=False
    )
    model = onnx.load(tmp_path / "model.onnx")
    rewritten = _split(model)
    assert _operators(model).count("ConvTranspose") == _operators(rewritten).count("DepthToSpace") == 3
    assert "ConvTranspose" not in _operators(rewritten)
    for level in (EXACT, FAST):
        (expected,), (result,) = _run(model, images, level), _run(rewritten, images, level)
        assert np.abs(result - expected).max() <= 1e-6 * np.ptp(expected)


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_a_users_network_agrees_with_quantsim(granularity: Any, tmp_path: Path) -> None:
    config = tiny.onnx_config()
    recipe = QuantizationRecipe(scheme="min_max", granularity=granularity)
    source = tmp_path / "users.onnx"
    onnx.save(users_deconvolutions(), source)
    images = tiny.smooth_images(3, config)
    files, plain, phases = _export_both(config, recipe, source, images, tmp_path)
    unseen = tiny.smooth_images(2, config, seed=5)
    _assert_same_file_but_faster(plain, phases, unseen)
    simulated = load_quantsim(config, recipe, files.model, files.encodings, "cpu")(unseen)["heatmaps"]
    maps = onnx_predictor(phases, config, threads=1)(unseen)["heatmaps"]
    step = np.ptp(simulated) / 255
    # A code that rounds the other way moves codes of the layers behind it.
    assert np.abs(maps - simulated).max() <= 3 * step
    assert np.abs(maps - simulated).mean() <= 0.1 * step
    scales = {t.name: t for t in onnx.load(phases).graph.initializer}
    kernels = [
        n for n in onnx.load(phases).graph.node if n.op_type == "DequantizeLinear" and n.name.endswith("weight_qdq")
    ]
    lengths = [int(np.prod(scales[node.input[1]].dims)) for node in kernels]
    assert lengths == ([6] * 8 if granularity == "per_channel" else [1] * 8)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("RT_LITE_224", 224), ("I_LITE_256", 256)])
def test_efficientpose_runs_in_int8_alone_with_the_same_maps(
    name: str, side: int, test_data: Path, tmp_path: Path
) -> None:
    source, config = efficientpose(test_data, f"EfficientPose{name}.onnx", side)
    images = np.clip(tiny.smooth_images(2, config) / 2, -1, 1).astype(np.float32)
    _, plain, phases = _export_both(config, MIN_MAX, source, images, tmp_path)
    assert audit_placement(plain).int8_mac_share < 0.9
    assert audit_placement(phases).int8_mac_share == 1
    assert "ConvTranspose" not in _operators(onnx.load(phases))
    run = {path: onnx_predictor(path, config, threads=1)(images)["heatmaps"] for path in (plain, phases)}
    # Sums in float, as of the transposed convolution, may fall on the other side of a tie: by one code, hardly ever.
    difference = np.abs(run[phases] - run[plain])
    assert np.mean(difference > 0) <= 1e-5
    assert difference.max() <= 1.01 * np.ptp(run[plain]) / 200
