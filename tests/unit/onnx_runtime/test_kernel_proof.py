from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.onnx_runtime.kernel_proof import prove_kernels
from hpe_tasks.records.execution import KernelProof

UNSIGNED = np.uint8(3)


def conv(codes: np.ndarray, *, group: int = 1) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """A quantized convolution `y` of the dequantized data `d`."""
    return [dequantized(), helper.make_node("Conv", ["d", "w"], ["y"], name="layer", group=group)], {"codes": codes}


def dequantized(name: str = "codes") -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", [name, "step", "none"], ["w"])


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], *, zero: Any = UNSIGNED) -> Path:
    """x → codes → d → `nodes`."""
    data = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
    ]
    kind = constants["codes"].dtype if "codes" in constants else np.int8
    values = {"step": np.float32(0.1), "zero": zero, "none": np.zeros((), kind), **constants}
    graph = helper.make_graph(
        [*data, *nodes],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def proof_of(tmp_path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], **data: Any) -> KernelProof:
    return prove_kernels(save(tmp_path / "model.onnx", nodes, constants, **data))


def codes(shape: tuple[int, ...], value: int) -> np.ndarray:
    return np.full(shape, value, np.int8)


SAFE, CLIPS = codes((4, 2, 3, 3), 64), codes((4, 2, 3, 3), 65)


def test_layers_that_fit_are_proved_with_their_smallest_margin(tmp_path: Path) -> None:
    proof = proof_of(tmp_path, *conv(SAFE))
    assert (proof.layers, proof.channels) == (1, 4)
    assert proof.x86_64.proved
    assert proof.arm64.proved
    assert (proof.x86_64.smallest_margin, proof.x86_64.tightest_layer) == (32767 - 2 * 64 * 255, "Conv layer")


def test_a_single_channel_that_can_clip_is_named(tmp_path: Path) -> None:
    mixed = SAFE.copy()
    mixed[2] = CLIPS[2]
    proof = proof_of(tmp_path, *conv(mixed))
    assert proof.x86_64.unproved == ("Conv layer: 1 of 4 channels can clip",)
    assert proof.x86_64.smallest_margin == 32767 - 2 * 65 * 255 < 0
    assert proof.arm64.proved


def test_two_smallest_codes_can_wrap_on_arm64_only(tmp_path: Path) -> None:
    weight = np.zeros((4, 8, 1, 1), np.int8)
    weight[1, [0, 5]] = -128
    proof = proof_of(tmp_path, *conv(weight))
    assert proof.x86_64.proved
    assert proof.arm64.unproved == ("Conv layer: 1 of 4 channels can clip",)


def matrix(op: str, values: np.ndarray, **attributes: Any) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    return [dequantized(), helper.make_node(op, ["d", "w"], ["y"], name="layer", **attributes)], {"codes": values}


# Two columns: the first has a pair that clips along its rows, not along its columns.
TALL = np.array([[100, 0], [100, 0], [0, 0]], np.int8)

CASES = {
    "depthwise": (conv(codes((4, 1, 3, 3), 127), group=4), 0),
    "depthwise with two filters": (conv(codes((4, 1, 3, 3), 127), group=2), 1),
    "groups": (conv(codes((4, 2, 1, 1), 127), group=2), 1),
    "product": (matrix("MatMul", TALL), 1),
    "product the other way": (matrix("MatMul", TALL.T), 0),
    "gemm": (matrix("Gemm", TALL), 1),
    "gemm transposed": (matrix("Gemm", TALL, transB=1), 0),
    "transposed convolution": (matrix("ConvTranspose", CLIPS), 0),
    "added": (matrix("Add", CLIPS), 0),
}


@pytest.mark.parametrize(("layer", "unproved"), CASES.values(), ids=CASES)
def test_pairs_are_those_of_the_layers_kernel(layer: Any, unproved: int, tmp_path: Path) -> None:
    assert proof_of(tmp_path, *layer).x86_64.unproved_layers == unproved


UNKNOWN = {
    "einsum": (matrix("Einsum", SAFE, equation="nchw,ochw->no"), "quantized constants of Einsum"),
    "weights before data": (
        ([dequantized(), helper.make_node("MatMul", ["w", "d"], ["y"], name="layer")], {"codes": SAFE}),
        "its weights are computed",
    ),
    "computed weights": (
        ([helper.make_node("MatMul", ["d", "d"], ["y"], name="layer")], {}),
        "its weights are computed",
    ),
    "unsigned weights": (conv(SAFE.astype(np.uint8)), "unsigned activations and signed weights"),
    "another domain": (
        (
            [dequantized(), helper.make_node("Conv", ["d", "w"], ["y"], name="layer", domain="com.example")],
            {"codes": SAFE},
        ),
        "operators of com.example are not known to the proof",
    ),
    "integer operator": (
        ([helper.make_node("ConvInteger", ["q", "codes"], ["y"], name="layer")], {"codes": SAFE}),
        "the sums of ConvInteger are not known to the proof",
    ),
    "a graph of its own": (
        (
            [
                helper.make_node(
                    "If",
                    ["yes"],
                    ["y"],
                    name="layer",
                    then_branch=helper.make_graph([], "a", [], []),
                    else_branch=helper.make_graph([], "b", [], []),
                )
            ],
            {"yes": np.bool_(True)},
        ),
        "holds a graph of its own",
    ),
}


@pytest.mark.parametrize(("layer", "reason"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_layer_that_the_proof_does_not_know_is_unproved_and_named(layer: Any, reason: str, tmp_path: Path) -> None:
    proof = proof_of(tmp_path, *layer)
    for family in (proof.x86_64, proof.arm64):
        assert not family.proved
        assert "layer" in family.unproved[0]
        assert reason in family.unproved[0]


def test_signed_activations_are_unproved(tmp_path: Path) -> None:
    proof = proof_of(tmp_path, *conv(SAFE), zero=np.int8(0))
    assert "unsigned activations" in proof.x86_64.unproved[0]


def test_data_of_16_bits_has_no_integer_kernel(tmp_path: Path) -> None:
    proof = proof_of(tmp_path, *conv(CLIPS), zero=np.uint16(0))
    assert (proof.layers, proof.x86_64.unproved) == (0, ())


def test_codes_in_a_constant_node_are_read(tmp_path: Path) -> None:
    nodes, _ = conv(CLIPS)
    constant = helper.make_node("Constant", [], ["codes"], value=numpy_helper.from_array(CLIPS))
    assert proof_of(tmp_path, [constant, *nodes], {}).x86_64.unproved_layers == 1


BETWEEN = {
    "pooling": ("MaxPool", {"kernel_shape": [2, 2]}, {}),
    "slice": ("Slice", {}, {"starts": [0], "ends": [2], "axes": [1]}),
    "dropout": ("Dropout", {}, {}),
    "cast": ("Cast", {"to": TensorProto.FLOAT}, {}),
    "padding of nothing": ("Pad", {}, {"pads": [0] * 8}),
    "product with one": ("Mul", {}, {"factor": np.float32(1)}),
    "expand": ("Expand", {}, {"shape": [1, 2, 3, 3]}),
    "relu": ("Relu", {}, {}),
    "identity": ("Identity", {}, {}),
    "sum with a float": ("Add", {}, {"other": np.float32(1)}),
}


@pytest.mark.parametrize(("op", "attributes", "inputs"), BETWEEN.values(), ids=BETWEEN)
def test_codes_behind_other_operators_are_codes_still(
    op: str, attributes: dict[str, Any], inputs: dict[str, Any], tmp_path: Path
) -> None:
    """onnxruntime moves conversions across what moves data, and drops what does nothing."""
    between = helper.make_node(op, ["d", *inputs], ["changed"], **attributes)
    nodes, constants = conv(CLIPS)
    nodes[-1].input[0] = "changed"
    proof = proof_of(tmp_path, [between, *nodes], constants | {key: np.asarray(v) for key, v in inputs.items()})
    assert proof.x86_64.unproved == ("Conv layer: 4 of 4 channels can clip",)


def test_data_of_the_layer_before_are_floats_unless_they_are_quantized(tmp_path: Path) -> None:
    nodes, constants = conv(SAFE)
    after = helper.make_node("Conv", ["y0", "w"], ["y"], name="after")
    nodes[-1].output[0] = "y0"
    proof = proof_of(tmp_path, [*nodes, after], constants)
    assert (proof.layers, proof.x86_64.proved) == (1, True)


def test_a_function_of_the_file_is_unproved_and_named(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", *conv(SAFE))
    model = onnx.load(path)
    opset = [helper.make_opsetid("", 21)]
    inner = [helper.make_node("Conv", ["d", "w"], ["c"])]
    model.functions.append(helper.make_function("own", "Mine", ["d", "w"], ["c"], inner, opset))
    onnx.save(model, path)
    assert prove_kernels(path).x86_64.unproved == (
        "function Mine: functions of the file's own are not known to the proof",
    )


def test_weights_of_4_bits_are_unproved(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx", *matrix("MatMul", np.ones((2, 4), np.int8)))
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in {"codes", "none"}:
            tensor.CopyFrom(
                helper.make_tensor(tensor.name, TensorProto.INT4, tensor.dims, [1] * int(np.prod(tensor.dims)))
            )
    onnx.save(model, path)
    assert "signed weights of 8 bits" in prove_kernels(path).x86_64.unproved[0]


def test_a_zero_point_that_is_computed_is_not_taken_for_unsigned(tmp_path: Path) -> None:
    nodes, constants = conv(SAFE)
    cast = helper.make_node("Cast", ["number"], ["sign"], to=TensorProto.INT8)
    again = [
        helper.make_node("QuantizeLinear", ["x", "step", "sign"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "step", "sign"], ["d2"]),
    ]
    nodes[-1].input[0] = "d2"
    proof = proof_of(tmp_path, [cast, *again, *nodes], constants | {"number": np.array(0, np.float32)})
    assert "unsigned activations" in proof.x86_64.unproved[0]


def test_many_unproved_layers_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    nodes = [dequantized()]
    nodes += [helper.make_node("Conv", ["d", "w"], [f"y{i}"], name=f"layer{i}") for i in range(30)]
    nodes.append(helper.make_node("Sum", [f"y{i}" for i in range(30)], ["y"]))
    family = proof_of(tmp_path, nodes, {"codes": CLIPS}).x86_64
    assert (family.unproved_layers, len(family.unproved)) == (30, 20)


def test_the_proof_names_its_file(tmp_path: Path) -> None:
    import hashlib

    path = save(tmp_path / "model.onnx", *conv(SAFE))
    assert prove_kernels(path).model_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
