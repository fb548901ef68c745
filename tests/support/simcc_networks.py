"""Small SimCC networks as ONNX files, as users have them: convolutions, and a product for each axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.config.model import ModelConfig
from support import tiny_networks as tiny


def simcc_config(**fields: Any) -> ModelConfig:
    """Of `simcc_onnx`: five joints in crops of 64×32."""
    return tiny.onnx_config(codec="simcc", **fields)


def simcc_onnx(
    *,
    batch: int | str = "n",
    joints: int = 5,
    bins: tuple[int, int] = (128, 64),
    names: Sequence[str] = ("simcc_x", "simcc_y"),
    product: str = "MatMul",
    extra: bool = False,
    stated: bool = True,
    nhwc: bool = False,
    attention: bool = False,
) -> onnx.ModelProto:
    """Takes crops of 64×32 and gives `bins` of x and y; `extra` adds an output that is none of the two.

    With the product `Gemm` joints and crops are rows of one matrix, and there is a bias. With `attention` joints see
    one another, as in RTMPose: relu(q · kᵀ)² · v is added to what is known of each.
    """
    rng = np.random.default_rng(0)

    def weight(name: str, *dims: int, scale: float = 0.3) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.normal(size=dims) * scale).astype(np.float32), name)

    constants = [
        weight("stem.w", 8, 3, 4, 4),
        weight("stem.b", 8),
        weight("maps.w", joints, 8, 1, 1),
        weight("maps.b", joints),
        numpy_helper.from_array(np.array([-1, 128] if product == "Gemm" else [0, joints, 128]), "cells"),
    ]
    image, nodes = "image", []
    if nhwc:
        nodes.append(helper.make_node("Transpose", ["image"], ["planar"], perm=[0, 3, 1, 2]))
        image = "planar"
    nodes += [
        helper.make_node("Conv", [image, "stem.w", "stem.b"], ["a"], strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "maps.w", "maps.b"], ["c"]),
        helper.make_node("Reshape", ["c", "cells"], ["flat"]),
    ]
    if attention:
        constants += [weight("q.w", 128, 32, scale=0.1), weight("k.w", 128, 32, scale=0.1)]
        constants += [weight("v.w", 128, 128, scale=0.1), numpy_helper.from_array(np.array(0.1, np.float32), "scale")]
        nodes[-1].output[0] = "joints"
        nodes += [helper.make_node("MatMul", ["joints", f"{name}.w"], [name]) for name in "qkv"]
        nodes += [
            helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["q", "kt"], ["qk"]),
            helper.make_node("Mul", ["qk", "scale"], ["scaled"]),
            helper.make_node("Relu", ["scaled"], ["positive"]),
            helper.make_node("Mul", ["positive", "positive"], ["attention"]),
            helper.make_node("MatMul", ["attention", "v"], ["seen"]),
            helper.make_node("Add", ["joints", "seen"], ["flat"]),
        ]
    for name, count in zip(names, bins, strict=True):
        constants.append(weight(f"{name}.w", 128, count))
        if product == "Gemm":
            shape = numpy_helper.from_array(np.array([-1, joints, count]), f"{name}.shape")
            constants += [weight(f"{name}.b", count), shape]
            nodes.append(helper.make_node("Gemm", ["flat", f"{name}.w", f"{name}.b"], [f"{name}.rows"]))
            nodes.append(helper.make_node("Reshape", [f"{name}.rows", f"{name}.shape"], [name]))
        else:
            nodes.append(helper.make_node("MatMul", ["flat", f"{name}.w"], [name]))
    dims = [(batch, joints, count) if stated else [None] * 3 for count in bins]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in zip(names, dims, strict=True)]
    if extra:
        outputs.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [None] * 4))
    size = (batch, 32, 64, 3) if nhwc else (batch, 3, 32, 64)
    graph = helper.make_graph(
        nodes, "simcc", [helper.make_tensor_value_info("image", TensorProto.FLOAT, size)], outputs, constants
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
