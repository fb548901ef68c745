"""Small networks, images and ONNX files for the tests of quantization, export and placement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from torch import nn

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.models import build_model
from hpe_tasks.models.interface import input_sizes


def mobilenet_config(**fields: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "architecture": "pose_mobilenet",
            "checkpoint": "weights.safetensors",
            "input_width": 64,
            "input_height": 64,
            "width_multiplier": 0.125,
            **fields,
        }
    )


def aimet_config(**fields: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "architecture": "aimet_pose",
            "codec": "paf",
            "checkpoint": "weights.safetensors",
            "input_width": 64,
            "input_height": 48,
            **fields,
        }
    )


def smooth_images(count: int, config: ModelConfig, seed: int = 0, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """Random images with structure at the scale of some pixels, as photographs have; N×3×H×W, about unit variance."""
    rng = np.random.default_rng(seed)
    width, height = size or config.input_size
    coarse = rng.normal(size=(count, 3, max(height // 16, 2), max(width // 16, 2))).astype(np.float32)
    planes = [cv2.resize(p, (width, height), interpolation=cv2.INTER_CUBIC) for image in coarse for p in image]
    return np.stack(planes).reshape(count, 3, height, width)


def both_orientations(count: int, config: ModelConfig, seed: int = 0) -> list[np.ndarray]:
    """A batch of wide and one of high `smooth_images`."""
    return [smooth_images(count, config, seed, size=size) for size in input_sizes(config)]


def write_checkpoint(path: Path, config: ModelConfig) -> Path:
    """Random weights with batch-norm statistics that fit them, so that activations are alive in every layer."""
    torch.manual_seed(0)
    model = build_model(config).train()
    batch_norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in batch_norms:
        # The mean over all batches, and branches that start out weak as trained ones do: a random network of unit
        # gains amplifies every rounding from layer to layer.
        module.momentum = None
    if batch_norms:
        last = [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1]
        nn.init.normal_(last.weight, std=0.1)
        with torch.no_grad():
            for seed in range(4):
                model(torch.from_numpy(smooth_images(8, config, seed)))
    save_file(model.state_dict(), path)
    return path


class PlainNetwork(nn.Module):
    """Some convolutions; with `reuse` one ReLU module serves all of them."""

    def __init__(self, *, reuse: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if i == 0 else 8, 8, 3, padding=1) for i in range(5))
        self.activations = nn.ModuleList(nn.ReLU() for _ in range(1 if reuse else 4))
        self.heatmaps = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, conv in enumerate(self.convs[:4]):
            x = self.activations[index % len(self.activations)](conv(x))
        maps: torch.Tensor = self.heatmaps(self.convs[4](x))
        return maps


def onnx_config(**fields: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "architecture": "onnx",
            "checkpoint": "model.onnx",
            "input_width": 64,
            "input_height": 32,
            "joint_names": ("head", "neck", "hip", "knee", "foot"),
            **fields,
        }
    )


def pose_onnx(
    *,
    opset: int = 13,
    ir: int = 8,
    shape: tuple[int | str | None, ...] = (1, 3, 32, 64),
    joints: int = 5,
    nhwc: bool = False,
    outputs: int = 1,
    listed_initializers: bool = False,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Conv → batch norm → clip → depthwise conv → clip → 1×1 conv to heatmaps at half the input's size."""
    rng = np.random.default_rng(0)
    float_type = helper.tensor_dtype_to_np_dtype(dtype)

    def weight(name: str, *dims: int, scale: float = 0.3) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.normal(size=dims) * scale).astype(float_type), name)

    constants = [
        weight("stem.w", 8, 3, 3, 3),
        weight("bn.gamma", 8),
        weight("bn.beta", 8),
        weight("bn.mean", 8),
        numpy_helper.from_array(np.full(8, 0.7, float_type), "bn.var"),
        weight("dw.w", 8, 1, 3, 3),
        weight("dw.b", 8),
        weight("head.w", joints, 8, 1, 1),
        weight("head.b", joints),
    ]
    names = ["heatmaps", *(f"extra{i}" for i in range(1, outputs))]
    bounds: dict[str, Any] = {"min": 0.0, "max": 6.0} if opset < 11 else {}
    limits = [] if opset < 11 else ["low", "high"]
    if limits:
        constants += [
            numpy_helper.from_array(np.array(0, float_type), "low"),
            numpy_helper.from_array(np.array(6, float_type), "high"),
        ]
    nodes = []
    image = "image"
    if nhwc:
        nodes.append(helper.make_node("Transpose", [image], ["planar"], perm=[0, 3, 1, 2]))
        image = "planar"
    nodes += [
        helper.make_node("Conv", [image, "stem.w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "bn.gamma", "bn.beta", "bn.mean", "bn.var"], ["b"]),
        helper.make_node("Clip", ["b", *limits], ["c"], **bounds),
        helper.make_node("Conv", ["c", "dw.w", "dw.b"], ["d"], group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["d", *limits], ["e"], **bounds),
        helper.make_node("Conv", ["e", "head.w", "head.b"], ["planes" if nhwc else names[0]]),
    ]
    if nhwc:
        nodes.append(helper.make_node("Transpose", ["planes"], [names[0]], perm=[0, 2, 3, 1]))
    nodes += [helper.make_node("Relu", [names[0]], [name]) for name in names[1:]]
    inputs = [helper.make_tensor_value_info("image", dtype, list(shape))]
    if listed_initializers:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in constants]
    graph = helper.make_graph(
        nodes,
        "pose",
        inputs,
        [helper.make_tensor_value_info(name, dtype, [None] * 4) for name in names],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def paf_onnx(
    *,
    shape: tuple[int | str | None, ...] = ("n", 3, "h", "w"),
    outputs: Sequence[tuple[str, int]] = (("pafs", 38), ("heatmaps", 19)),
    nhwc: bool = False,
) -> onnx.ModelProto:
    """One convolution with stride 8 to each output (name, channels), of any input size; output i adds i to its maps."""
    rng = np.random.default_rng(0)
    constants, nodes = [], []
    image = "image"
    if nhwc:
        nodes.append(helper.make_node("Transpose", [image], ["planar"], perm=[0, 3, 1, 2]))
        image = "planar"
    for index, (name, channels) in enumerate(outputs):
        weight = (rng.normal(size=(channels, 3, 8, 8)) * 0.1).astype(np.float32)
        constants += [
            numpy_helper.from_array(weight, f"{name}.w"),
            numpy_helper.from_array(np.full(channels, index, np.float32), f"{name}.b"),
        ]
        maps = f"{name}.planar" if nhwc else name
        nodes.append(helper.make_node("Conv", [image, f"{name}.w", f"{name}.b"], [maps], strides=[8, 8]))
        if nhwc:
            nodes.append(helper.make_node("Transpose", [maps], [name], perm=[0, 2, 3, 1]))
    dims = [("n", "mh", "mw", channels) if nhwc else ("n", channels, "mh", "mw") for _, channels in outputs]
    graph = helper.make_graph(
        nodes,
        "paf",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dim)
            for (name, _), dim in zip(outputs, dims, strict=True)
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_onnx(path: Path, **fields: Any) -> Path:
    onnx.save(pose_onnx(**fields), path)
    return path


def integer_product(inner: int, columns: int, weight: int) -> onnx.ModelProto:
    """A product of a matrix of unsigned 8-bit numbers, N×inner, with one whose numbers are all `weight`, summed up."""
    weights = numpy_helper.from_array(np.full((inner, columns), weight, np.int8), "b")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["n", inner])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["n", columns])],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
