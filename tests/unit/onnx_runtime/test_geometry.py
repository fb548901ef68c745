"""Input size and layouts as an ONNX file states them, what it leaves open, and what contradicts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.errors import CheckpointError, ConfigError, HpeError
from hpe_tasks.onnx_runtime.geometry import read_geometry

JOINTS = 4
NAMES = ("a", "b", "c", "d")


def network(
    folder: Path,
    *,
    size: tuple[int | str, int | str] = (48, 64),
    nhwc_in: bool = False,
    nhwc_out: bool = False,
    channels: int | str = 3,
    outputs: tuple[tuple[str, int], ...] = (("maps", JOINTS),),
    stated_out: bool = True,
) -> Path:
    """A convolution from an image of this (W, H) to maps of half its size."""
    w, h = size
    shape_in = ["batch", h, w, channels] if nhwc_in else ["batch", channels, h, w]
    nodes, weights, infos = [], [], []
    image = "image"
    if nhwc_in:
        nodes.append(helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]))
        image = "planes"
    for name, count in outputs:
        weights.append(numpy_helper.from_array(np.zeros((count, 3, 2, 2), np.float32), f"{name}_w"))
        inner = f"{name}_nchw" if nhwc_out else name
        nodes.append(helper.make_node("Conv", [image, f"{name}_w"], [inner], strides=[2, 2]))
        if nhwc_out:
            nodes.append(helper.make_node("Transpose", [inner], [name], perm=[0, 2, 3, 1]))
        half = ["h", "w"] if isinstance(w, str) or isinstance(h, str) else [h // 2, w // 2]
        shape: list[Any] = ["batch", *half, count] if nhwc_out else ["batch", count, *half]
        infos.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape if stated_out else ["n", "x", "y", "z"])
        )
    graph = helper.make_graph(
        nodes, "pose", [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape_in)], infos, weights
    )
    file = folder / "pose.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return file


def described(**fields: Any) -> ModelConfig:
    joints = {} if fields.get("codec") == "paf" else {"joint_names": NAMES}
    return ModelConfig(architecture="onnx", checkpoint="pose.onnx", **{**joints, **fields})


def read(file: Path, *, preset: dict[str, Any] | None = None, **asked: Any) -> ModelConfig:
    """What comes of the settings of a preset and of a user."""
    usual = preset or {}
    codec = {"codec"} & asked.keys()
    return read_geometry(described(**{**usual, **asked}), file, asked=set(asked) - codec, usual=set(usual))


PAF = (("pafs", 38), ("heatmaps", 19))


@pytest.mark.parametrize(
    ("made", "layouts"),
    [
        pytest.param({}, ("nchw", "nchw"), id="nchw"),
        pytest.param({"nhwc_in": True}, ("nhwc", "nchw"), id="channels last in"),
        pytest.param({"nhwc_out": True}, ("nchw", "nhwc"), id="channels last out"),
        pytest.param({"nhwc_in": True, "nhwc_out": True}, ("nhwc", "nhwc"), id="channels last"),
        pytest.param({"nhwc_out": True, "stated_out": False}, ("nchw", "nhwc"), id="output says nothing: it is run"),
        pytest.param({"channels": "c"}, None, id="free channels"),
        pytest.param({"channels": "c", "nhwc_in": True}, None, id="free channels last"),
    ],
)
def test_size_and_layouts_come_from_the_file(tmp_path: Path, made: dict[str, Any], layouts: Any) -> None:
    model = read(network(tmp_path, **made))
    assert model.input_size == (48, 64)
    if layouts is not None:
        assert (model.input_layout, model.output_layout) == layouts


def test_the_file_counts_more_than_a_preset(tmp_path: Path) -> None:
    preset = {"input_width": 192, "input_height": 256, "input_layout": "nhwc", "output_layout": "nhwc"}
    model = read(network(tmp_path), preset=preset)
    assert (model.input_size, model.input_layout, model.output_layout) == ((48, 64), "nchw", "nchw")


def test_what_a_file_leaves_free_comes_from_the_user_or_the_preset(tmp_path: Path) -> None:
    file = network(tmp_path, size=("w", "h"), stated_out=False, nhwc_out=True)
    assert read(file, input_width=64, input_height=32).input_size == (64, 32)
    model = read(file, preset={"input_width": 96, "input_height": 32}, input_height=64)
    assert (model.input_size, model.output_layout) == ((96, 64), "nhwc")


def test_maps_of_all_people_come_in_either_layout(tmp_path: Path) -> None:
    sides = {"input_width": 64, "input_height": 48}
    for last in (False, True):
        file = network(tmp_path, size=("w", "h"), outputs=PAF, nhwc_out=last)
        assert read(file, preset=sides, codec="paf").output_layout == ("nhwc" if last else "nchw")


@pytest.mark.parametrize(
    ("made", "asked", "error", "says", "hint"),
    [
        pytest.param({}, {"input_width": 64}, ConfigError, "model.input_width is 64", "width out", id="width"),
        pytest.param({}, {"input_height": 48}, ConfigError, "model.input_height is 48", "height out", id="height"),
        pytest.param({}, {"input_layout": "nhwc"}, ConfigError, "×3×64×48: that is nchw", "layout out", id="layout"),
        pytest.param(
            {"nhwc_out": True}, {"output_layout": "nchw"}, ConfigError, "that is nhwc", "output_layout out", id="output"
        ),
        pytest.param({"size": ("w", "h")}, {}, CheckpointError, "its size free", "model.input_width and", id="free"),
        pytest.param(
            {"size": ("w", "h")}, {"input_width": 48}, CheckpointError, "its size free", "input_height", id="half said"
        ),
        pytest.param(
            {"size": (3, 64), "channels": 3}, {}, CheckpointError, "fits nchw and nhwc alike", "Set model.input_layout",
            id="both ends are 3",
        ),
        pytest.param(
            {"size": ("w", "h"), "channels": "c"}, {}, CheckpointError, "fits nchw and nhwc", "Set model.input_layout",
            id="all free",
        ),
        pytest.param(
            {"size": (8, 64)}, {"input_layout": "nchw"}, ConfigError, "input_width Input should be", "", id="small"
        ),
        pytest.param(
            {"size": (8, 64), "stated_out": True, "nhwc_in": True}, {}, ConfigError, "no run can have", "", id="narrow"
        ),
    ],
)  # fmt: skip
def test_what_is_open_or_contradicts_names_the_setting(
    tmp_path: Path, made: dict[str, Any], asked: dict[str, Any], error: type[HpeError], says: str, hint: str
) -> None:
    file = network(tmp_path, **made)
    with pytest.raises(error) as raised:
        read(file, **asked)
    assert says in raised.value.message
    assert str(file) in raised.value.message
    assert hint in raised.value.hint


def test_maps_as_wide_as_there_are_joints_need_the_layout(tmp_path: Path) -> None:
    file = network(tmp_path, size=(64, 64), outputs=(("maps", 32),))
    joints = {"joint_names": tuple(f"j{i}" for i in range(32))}
    with pytest.raises(CheckpointError, match="fits nchw and nhwc alike") as raised:
        read(file, preset=joints)
    assert "model.output_layout" in raised.value.hint
    assert read(file, preset=joints, output_layout="nchw").output_layout == "nchw"


@pytest.mark.parametrize(
    ("name", "size"), [("EfficientPoseRT_LITE_224.onnx", (224, 224)), ("EfficientPoseI_256.onnx", (256, 256))]
)
def test_published_networks(test_data: Path, name: str, size: tuple[int, int]) -> None:
    model = ModelConfig(architecture="onnx", checkpoint=name, skeleton="efficientpose16")
    read = read_geometry(model, test_data / "models" / name, asked=(), usual=())
    assert (read.input_size, read.output_layout) == (size, "nhwc")


def test_outputs_that_are_not_the_codecs_are_left_to_the_loading(tmp_path: Path) -> None:
    file = network(tmp_path, size=("w", "h"))
    model = read(file, input_width=48, input_height=64, codec="paf")
    assert (model.input_size, model.output_layout) == ((48, 64), "nchw")


def test_what_is_no_network_of_one_image_is_left_to_its_loading(tmp_path: Path) -> None:
    file = tmp_path / "pose.onnx"
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", infos[:1], infos[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    assert read(file) == described()
