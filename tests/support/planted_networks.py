"""Networks with one activation that 8 bits cannot hold: a channel of it is far wider than the others, and of no use."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from hpe_tasks.config.model import ModelConfig
from support.tiny_networks import onnx_config

WIDE = 1000.0

PLANTED_LAYER = {"onnx": "planted", "torch": "/head.0/Conv"}
"""Name of the layer that gives the activation, by backend."""


def planted_onnx(path: Path, wide: float = WIDE) -> tuple[Path, ModelConfig]:
    """Five convolutions; what `planted` gives cannot be quantized."""
    rng = np.random.default_rng(0)
    layers = [("stem", 3, 8), ("second", 8, 8), ("planted", 8, 8), ("fourth", 8, 8), ("heatmaps", 8, 5)]
    nodes, constants, before = [], [], "image"
    for index, (name, inputs, outputs) in enumerate(layers):
        weight = rng.normal(size=(outputs, inputs, 3, 3)).astype(np.float32) * np.sqrt(2 / (9 * inputs))
        if name == "planted":
            weight[0] *= wide
        if name == "fourth":
            weight[:, 0] = 0
        constants += [
            numpy_helper.from_array(weight.astype(np.float32), f"{name}.w"),
            numpy_helper.from_array(np.full(outputs, 0.1, np.float32), f"{name}.b"),
        ]
        last = index == len(layers) - 1
        given = name if last else f"{name}.sums"
        strides = [2, 2] if index == 0 else [1, 1]
        nodes.append(
            helper.make_node(
                "Conv", [before, f"{name}.w", f"{name}.b"], [given], name=name, pads=[1] * 4, strides=strides
            )
        )
        if not last:
            before = f"{name}.out"
            nodes.append(helper.make_node("Relu", [given], [before], name=f"{name}.relu"))
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 64])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["n", 5, 16, 32])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path, onnx_config(checkpoint=str(path))


def planted_torch(path: Path, wide: float = WIDE) -> tuple[Path, ModelConfig]:
    """The sample network, which is trained; what the first layer of its head gives cannot be quantized."""
    config = ModelConfig(checkpoint=str(path), input_width=96, input_height=128)
    tensors = load_file(str(files("hpe_tasks") / "assets" / "pose_mobilenet_sample.safetensors"))
    tensors["head.1.weight"][0] *= wide
    # Seen in every image.
    tensors["head.1.bias"][0] = wide
    tensors["head.3.weight"][0] = 0
    save_file(tensors, path)
    return path, config


PLANTED = {"onnx": planted_onnx, "torch": planted_torch}
