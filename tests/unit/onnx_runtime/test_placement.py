from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.recipe import QuantizationRecipe
from hpe_tasks.errors import QuantizationError
from hpe_tasks.onnx_runtime.placement import audit_placement
from hpe_tasks.quantization import torch_backend
from hpe_tasks.quantization.aimet import import_aimet, vendor_warnings_muted
from support import tiny_networks as tiny

pytestmark = pytest.mark.usefixtures("one_thread")


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: tuple[int | str, ...],
    output_type: int = TensorProto.FLOAT,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "work",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", output_type, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def _integer_constants() -> dict[str, np.ndarray]:
    return {
        "s": np.array(0.1, np.float32),
        "z": np.array(128, np.uint8),
        "w": np.ones((8, 4, 3, 3), np.int8),
        "ws": np.full(8, 0.01, np.float32),
        "wz": np.zeros(8, np.int8),
    }


def _resized_conv(mode: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["c", "", "twice"], ["y"], mode=mode),
    ]


@pytest.mark.parametrize(
    ("mode", "named"),
    [pytest.param("nearest", [], id="repeats"), pytest.param("linear", ["Resize"], id="blends")],
)
def test_upsampling_is_work_only_where_it_makes_new_values(tmp_path: Path, mode: str, named: list[str]) -> None:
    constants = {"w": _ones(8, 4, 3, 3), "twice": np.array([1, 1, 2, 2], np.float32)}
    audit = audit_placement(_save(tmp_path / "m.onnx", _resized_conv(mode), constants, (1, 4, 8, 8)))
    assert [name.split()[0] for name in audit.float_operators] == ["Conv", *named]
    assert audit.total_macs == 8 * 4 * 9 * 64


_INTEGER_CONV = [
    helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
    helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
    helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
    helper.make_node("Conv", ["d", "wd"], ["c"], pads=[1, 1, 1, 1]),
    helper.make_node("QuantizeLinear", ["c", "s", "z"], ["cq"]),
    helper.make_node("DequantizeLinear", ["cq", "s", "z"], ["y"]),
]

WORK = {
    # 8 output channels × 6×5 positions × 4 input channels × 3×3 taps
    "conv": ([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], {"w": _ones(8, 4, 3, 3)}, 8640, 0.0),
    # 4 channels × 3×3 positions (stride 2) × 3×3 taps
    "depthwise": (
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=4, strides=[2, 2])],
        {"w": _ones(4, 1, 3, 3)},
        4 * 3 * 3 * 9,
        0.0,
    ),
    # 4 input channels × 6×5 positions, each spread over 2 output channels × 4×4 taps
    "transposed": (
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
        {"w": _ones(4, 2, 4, 4)},
        4 * 30 * 2 * 16,
        0.0,
    ),
    # 4×6 rows of 5 values by a 5×7 matrix
    "matmul": ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": _ones(5, 7)}, 24 * 5 * 7, 0.0),
    "gemm": (
        [
            helper.make_node("Reshape", ["x", "flat"], ["r"]),
            helper.make_node("Gemm", ["r", "w"], ["y"], transA=1),
        ],
        {"w": _ones(1, 7), "flat": np.array([1, 120], np.int64)},
        120 * 7,
        0.0,
    ),
    "int8-conv": (_INTEGER_CONV, _integer_constants(), 8640, 1.0),
}


@pytest.mark.parametrize(("nodes", "constants", "macs", "share"), WORK.values(), ids=WORK)
@pytest.mark.parametrize("batch", [1, "batch"])
def test_work_is_counted_at_batch_one(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    macs: int,
    share: float,
    batch: int | str,
    tmp_path: Path,
) -> None:
    audit = audit_placement(_save(tmp_path / "model.onnx", nodes, constants, (batch, 4, 6, 5)))
    assert audit.total_macs == macs
    assert audit.int8_mac_share == share
    assert audit.int8_macs == share * macs
    assert audit.onnxruntime_version
    assert audit.cpu_features


def test_float_operators_are_named_with_the_most_work_first(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "small"], ["a"], name="small_conv"),
        helper.make_node("Sigmoid", ["a"], ["b"], name="squash"),
        helper.make_node("Conv", ["b", "large"], ["c"], name="large_conv"),
        helper.make_node("Softmax", ["c"], ["y"], name="share"),
    ]
    constants = {"small": _ones(4, 4, 1, 1), "large": _ones(64, 4, 3, 3)}
    names = audit_placement(_save(tmp_path / "model.onnx", nodes, constants, (1, 4, 32, 32))).float_operators
    assert names[0].startswith("Conv large_conv: 2.1 M")
    assert names[1].startswith("FusedConv small_conv: 0.0 M")
    assert names[2] == "Softmax share"


def test_a_graph_without_work_has_no_int8_share(tmp_path: Path) -> None:
    audit = audit_placement(_save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], {}, (1, 4)))
    assert (audit.total_macs, audit.int8_mac_share) == (0, 0.0)


def test_a_free_height_is_refused(tmp_path: Path) -> None:
    nodes, constants, _, _ = WORK["conv"]
    path = _save(tmp_path / "model.onnx", nodes, constants, ("batch", 4, "height", 5))
    with pytest.raises(QuantizationError, match=r"'x' of model.onnx has no fixed size in dimension \[2\]"):
        audit_placement(path)


def test_a_free_size_is_the_one_that_the_file_says_of_itself(tmp_path: Path) -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    path = _save(tmp_path / "model.onnx", [conv], {"w": _ones(8, 3, 3, 3)}, ("batch", 3, "height", "width"))
    model = onnx.load(path)
    model.metadata_props.add(key="hpe.input_size", value="[5, 6]")
    onnx.save(model, path)
    assert audit_placement(path).total_macs == 8 * 6 * 5 * 3 * 9


def test_work_that_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    einsum = helper.make_node("Einsum", ["x", "w"], ["y"], equation="bcij,jk->bcik", name="mix")
    path = _save(tmp_path / "model.onnx", [einsum], {"w": _ones(5, 7)}, (1, 4, 6, 5))
    with pytest.raises(QuantizationError, match="The work of Einsum mix"):
        audit_placement(path)


def test_a_file_that_onnxruntime_cannot_load_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(QuantizationError, match="onnxruntime cannot load"):
        audit_placement(path)


@pytest.mark.parametrize(
    ("reuse", "prepare", "low", "high"),
    [
        pytest.param(True, False, 0.0, 0.5, id="one-relu-for-all: the trap"),
        pytest.param(False, False, 0.95, 1.0, id="a-relu-each"),
        pytest.param(True, True, 0.95, 1.0, id="one-relu-for-all, prepared"),
    ],
)
def test_activations_that_stay_float_are_seen(
    reuse: bool, prepare: bool, low: float, high: float, tmp_path: Path
) -> None:
    config = ModelConfig(architecture="pose_mobilenet", checkpoint="none", input_width=32, input_height=32)
    recipe = QuantizationRecipe(scheme="min_max")
    network: torch.nn.Module = tiny.PlainNetwork(reuse=reuse).eval()
    example = torch_backend.example_input(config)
    if prepare:
        network = torch_backend._prepare(network, config, recipe, equalize=False)
    images = torch.from_numpy(tiny.smooth_images(2, config))
    path = tmp_path / "model.onnx"
    with vendor_warnings_muted():
        sim = torch_backend.build_sim(network, config, recipe, "cpu")
        sim.compute_encodings(lambda model: model(images))
        exporter = import_aimet("aimet_torch.onnx")
        exporter.export(sim.model, (example,), str(path), opset_version=17, dynamo=False, prequantize_constants=True)
    assert low <= audit_placement(path).int8_mac_share <= high
