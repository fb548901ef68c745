from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, external_data_helper, helper

from hpe_tasks.errors import CheckpointError
from hpe_tasks.models.onnx_model import MIN_OPSET, prepare_onnx
from support import tiny_networks as tiny


def _run(path: Path, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])


ACCEPTED: dict[str, dict[str, Any]] = {
    "as-it-should-be": {},
    "opset-9": {"opset": 9, "ir": 4},
    "opset-7-ir-3-initializers-listed": {"opset": 7, "ir": 3, "listed_initializers": True},
    "opset-11-initializers-listed": {"opset": 11, "ir": 6, "listed_initializers": True},
    "opset-21": {"opset": 21, "ir": 10},
    "free-batch": {"shape": ("n", 3, 32, 64)},
    "nameless-batch": {"shape": (None, 3, 32, 64)},
    "free-height-and-width": {"shape": ("n", 3, "h", "w")},
}


@pytest.mark.parametrize("fields", ACCEPTED.values(), ids=ACCEPTED)
def test_a_network_is_cleaned_and_computes_the_same(fields: dict[str, Any], tmp_path: Path) -> None:
    source, cleaned = tiny.write_onnx(tmp_path / "source.onnx", **fields), tmp_path / "cleaned.onnx"
    config = tiny.onnx_config()
    prepare_onnx(source, cleaned, config)
    model = onnx.load(cleaned)
    onnx.checker.check_model(model, full_check=True)
    assert next(o.version for o in model.opset_import if o.domain == "") == max(fields.get("opset", 13), MIN_OPSET)
    assert model.ir_version >= 4
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == ["heatmaps"]
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims][1:] == [3, 32, 64]
    assert dims[0].dim_value == 1 or dims[0].dim_param
    images = tiny.smooth_images(1, config)
    np.testing.assert_allclose(_run(cleaned, images), _run(source, images), rtol=1e-5, atol=1e-5)
    again = tmp_path / "again.onnx"
    prepare_onnx(cleaned, again, config)
    np.testing.assert_array_equal(_run(again, images), _run(cleaned, images))


def test_batch_norms_of_opset_8_may_say_that_they_are_not_spatial(tmp_path: Path) -> None:
    """As MXNet exported them, although their parameters are one value for each channel."""
    config, images = tiny.onnx_config(), tiny.smooth_images(1, tiny.onnx_config())
    plain = tiny.write_onnx(tmp_path / "plain.onnx", opset=8, ir=3, listed_initializers=True)
    model = onnx.load(plain)
    model.graph.node[1].attribute.append(helper.make_attribute("spatial", 0))
    onnx.save(model, tmp_path / "mxnet.onnx")
    prepare_onnx(tmp_path / "mxnet.onnx", tmp_path / "cleaned.onnx", config)
    np.testing.assert_allclose(_run(tmp_path / "cleaned.onnx", images), _run(plain, images), rtol=1e-5, atol=1e-5)


def test_every_node_gets_a_name_of_its_own(tmp_path: Path) -> None:
    model = tiny.pose_onnx()
    for node in model.graph.node[1:3]:
        node.name = "twin"
    onnx.save(model, tmp_path / "source.onnx")
    prepare_onnx(tmp_path / "source.onnx", tmp_path / "cleaned.onnx", tiny.onnx_config())
    names = [node.name for node in onnx.load(tmp_path / "cleaned.onnx").graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_constant_nodes_become_initializers(tmp_path: Path) -> None:
    model = tiny.pose_onnx()
    weight = next(t for t in model.graph.initializer if t.name == "head.w")
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["head.w"], value=weight))
    onnx.save(model, tmp_path / "source.onnx")
    prepare_onnx(tmp_path / "source.onnx", tmp_path / "cleaned.onnx", tiny.onnx_config())
    cleaned = onnx.load(tmp_path / "cleaned.onnx")
    assert not [n for n in cleaned.graph.node if n.op_type == "Constant"]
    assert "head.w" in {t.name for t in cleaned.graph.initializer}


def test_the_named_output_of_several_is_accepted(tmp_path: Path) -> None:
    source = tiny.write_onnx(tmp_path / "source.onnx", outputs=2)
    prepare_onnx(source, tmp_path / "cleaned.onnx", tiny.onnx_config(output_name="extra1"))


def _no_file(path: Path) -> None:
    assert not path.exists()


def _text(path: Path) -> None:
    path.write_text("a text, and no network")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path) -> None:
    path.write_bytes(tiny.pose_onnx().SerializeToString()[:-200])


def _external(path: Path) -> None:
    model = tiny.pose_onnx()
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, path)


def _quantized(path: Path) -> None:
    model = tiny.pose_onnx()
    model.graph.node[0].op_type = "ConvInteger"
    onnx.save(model, path)


def _two_inputs(path: Path) -> None:
    model = tiny.pose_onnx()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    onnx.save(model, path)


def _unconvertible(path: Path) -> None:
    """Upsample of opset 7 has its scales as an attribute; a node of an unknown operator cannot be converted."""
    model = tiny.pose_onnx(opset=9, ir=4)
    model.graph.node.insert(0, helper.make_node("NoSuchOperator", ["image"], ["unused"]))
    onnx.save(model, path)


def _foreign_operator(path: Path) -> None:
    model = tiny.pose_onnx()
    model.graph.node.append(helper.make_node("Mystery", ["heatmaps"], ["more"], domain="com.example"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, path)


REFUSED_FILES = {
    "missing": (_no_file, "cannot be read"),
    "text": (_text, "is not a model in ONNX's format"),
    "empty": (_empty, "is not a model in ONNX's format"),
    "truncated": (_truncated, "is not a model in ONNX's format"),
    "external-data": (_external, r"tensors in other files, such as .stem.w. in .weights\.bin"),
    "quantized": (_quantized, "quantized already: it holds ConvInteger"),
    "two-inputs": (_two_inputs, r"2 inputs \(image, mask\)"),
    "unconvertible": (_unconvertible, "opset 9, which cannot be converted to 13"),
    "foreign-operator": (_foreign_operator, "not valid ONNX|cannot run"),
}


@pytest.mark.parametrize(("write", "message"), REFUSED_FILES.values(), ids=REFUSED_FILES)
def test_an_unusable_file_is_refused(write: Any, message: str, tmp_path: Path) -> None:
    source = tmp_path / "source.onnx"
    write(source)
    with pytest.raises(CheckpointError, match=message) as caught:
        prepare_onnx(source, tmp_path / "cleaned.onnx", tiny.onnx_config())
    assert "source.onnx" in str(caught.value)
    assert not (tmp_path / "cleaned.onnx").exists()


DISAGREEMENTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "size": ({}, {"input_width": 96}, "1×3×32×64, but the configuration says NCHW with 3 channels, 96 wide"),
    "layout": ({}, {"input_layout": "nhwc"}, "the configuration says NHWC"),
    "grey": ({"shape": (1, 1, 32, 64)}, {}, "3 channels"),
    "rank": ({"shape": (3, 32, 64)}, {}, "3×32×64, but"),
    "batch": ({"shape": (4, 3, 32, 64)}, {}, "the batch is fixed to 4"),
    "half-precision": ({"dtype": TensorProto.FLOAT16}, {}, "only float32"),
    "joints": ({"joints": 6}, {}, "heatmaps of 5 joints"),
    "output-layout": ({}, {"output_layout": "nhwc"}, r"heatmaps of 5 joints .* \(nhwc\)"),
    "several-outputs": ({"outputs": 3}, {}, "several outputs: heatmaps, extra1, extra2"),
    "unknown-output": ({"outputs": 2}, {"output_name": "poses"}, "no output 'poses'; it has: heatmaps, extra1"),
}


@pytest.mark.parametrize(("file", "described", "message"), DISAGREEMENTS.values(), ids=DISAGREEMENTS)
def test_a_file_that_differs_from_its_description_is_refused(
    file: dict[str, Any], described: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = tiny.write_onnx(tmp_path / "source.onnx", **file)
    with pytest.raises(CheckpointError, match=message):
        prepare_onnx(source, tmp_path / "cleaned.onnx", tiny.onnx_config(**described))


PAF_CONFIG = tiny.onnx_config(codec="paf", joint_names=None, input_width=64, input_height=48)


@pytest.mark.parametrize("nhwc", [False, True], ids=["nchw", "nhwc"])
def test_a_network_for_images_of_both_orientations_keeps_its_free_size(nhwc: bool, tmp_path: Path) -> None:
    layout = "nhwc" if nhwc else "nchw"
    config = PAF_CONFIG.model_copy(update={"input_layout": layout, "output_layout": layout})
    source, cleaned = tmp_path / "source.onnx", tmp_path / "cleaned.onnx"
    onnx.save(tiny.paf_onnx(nhwc=nhwc, shape=("n", "h", "w", 3) if nhwc else ("n", 3, "h", "w")), source)
    prepare_onnx(source, cleaned, config)
    for images in tiny.both_orientations(2, config):
        layed_out = images.transpose(0, 2, 3, 1) if nhwc else images
        np.testing.assert_array_equal(_run(cleaned, layed_out), _run(source, layed_out))
        assert _run(cleaned, layed_out).size == 2 * 38 * 6 * 8


@pytest.mark.parametrize(
    ("file", "described", "message"),
    [
        pytest.param({"shape": (1, 3, 48, 64)}, {}, "1×3×48×64, of a fixed size; codec 'paf'", id="one-orientation"),
        pytest.param({"outputs": [("maps", 57)]}, {}, r"no output 'pafs' .* 38 channels; it has: maps", id="joined"),
        pytest.param(
            {}, {"output_layout": "nhwc"}, r"1×38×6×8; pafs .* are N×height×width×38 \(nhwc\)", id="output-layout"
        ),
    ],
)
def test_a_bottom_up_network_that_cannot_be_used_is_refused(
    file: dict[str, Any], described: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = tmp_path / "source.onnx"
    onnx.save(tiny.paf_onnx(**file), source)
    with pytest.raises(CheckpointError, match=message):
        prepare_onnx(source, tmp_path / "cleaned.onnx", PAF_CONFIG.model_copy(update=described))


def test_copies_of_weights_become_weights(tmp_path: Path) -> None:
    """Torch stores equal tensors once and copies them by Identity; AIMET wants a bias for each layer."""
    model = tiny.pose_onnx()
    model.graph.node.insert(0, helper.make_node("Identity", ["dw.b"], ["copy"]))
    model.graph.node[1].input.append("copy")
    onnx.save(model, tmp_path / "source.onnx")
    prepare_onnx(tmp_path / "source.onnx", tmp_path / "cleaned.onnx", tiny.onnx_config())
    cleaned = onnx.load(tmp_path / "cleaned.onnx")
    assert not [n for n in cleaned.graph.node if n.op_type == "Identity"]
    images = tiny.smooth_images(1, tiny.onnx_config())
    np.testing.assert_array_equal(_run(tmp_path / "cleaned.onnx", images), _run(tmp_path / "source.onnx", images))


@pytest.mark.parametrize(("name", "side"), [("EfficientPoseRT_LITE_224", 224), ("EfficientPoseI_LITE_256", 256)])
def test_real_networks_are_accepted(name: str, side: int, test_data: Path, tmp_path: Path) -> None:
    config = tiny.onnx_config(
        skeleton="efficientpose16", joint_names=None, input_width=side, input_height=side, output_layout="nhwc"
    )
    source = test_data / "models" / f"{name}.onnx"
    prepare_onnx(source, tmp_path / "cleaned.onnx", config)
    images = tiny.smooth_images(1, config)
    np.testing.assert_array_equal(_run(tmp_path / "cleaned.onnx", images), _run(source, images))
