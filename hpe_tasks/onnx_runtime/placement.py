"""Audit of what onnxruntime really runs in int8: its optimized graph is read back and multiply-accumulates counted.

A quantized file whose activations stayed float has the right size and the right accuracy, and none of the speed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort

from hpe_tasks.contract.cpu import cpu_features
from hpe_tasks.contract.onnx_session import inference_session
from hpe_tasks.contract.refusals import REFUSALS, first_line
from hpe_tasks.errors import QuantizationError
from hpe_tasks.models.onnx_graph import attributes_of
from hpe_tasks.records.execution import PlacementAudit

# Operators that hold the work, by how their multiply-accumulates follow from shapes: positions of the two factors.
# Names are those of onnxruntime's optimized graph; the layout domains repeat them.
_CONVOLUTIONS = {"Conv": (0, 1), "FusedConv": (0, 1), "NhwcConv": (0, 1), "NhwcFusedConv": (0, 1)}
_INT8_CONVOLUTIONS = {"QLinearConv": (0, 3), "ConvInteger": (0, 1)}
_TRANSPOSED = {"ConvTranspose": (0, 1), "QLinearConvTranspose": (0, 3), "ConvTransposeWithDynamicPads": (0, 1)}
_PRODUCTS = {"MatMul": (0, 1), "FusedMatMul": (0, 1), "TransposeMatMul": (0, 1), "Gemm": (0, 1), "FusedGemm": (0, 1)}
_INT8_PRODUCTS = {
    "QLinearMatMul": (0, 3),
    "QGemm": (0, 3),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1),
    "DynamicQuantizeMatMul": (0, 1),
}
_FACTORS = {**_CONVOLUTIONS, **_INT8_CONVOLUTIONS, **_TRANSPOSED, **_PRODUCTS, **_INT8_PRODUCTS}
_INT8 = {*_INT8_CONVOLUTIONS, *_INT8_PRODUCTS, "QLinearConvTranspose"}

# Work that is not counted here must not pass as no work at all.
_UNCOUNTED = {
    "Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention", "MatMulNBits", "DeformConv", "Einsum",
    "LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "QMoE", "MoE", "Loop", "Scan", "If",
}  # fmt: skip

# Moving, choosing or converting values is not arithmetic that int8 could speed up.
_NO_ARITHMETIC = {
    "QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Split",
    "Slice", "Gather", "Identity", "Shape", "Cast", "Constant", "ConstantOfShape", "Expand", "Tile", "Pad", "MaxPool",
    "NhwcMaxPool", "DepthToSpace", "SpaceToDepth", "ReorderInput", "ReorderOutput",
}  # fmt: skip

_SHOWN_FLOAT_OPERATORS = 20


def audit_placement(model: Path) -> PlacementAudit:
    """Count the multiply-accumulates that onnxruntime's CPU provider runs in int8, at batch 1.

    A free height and width count as those of `hpe.input_size`, which an exported file says of itself.

    Convolutions, transposed convolutions and matrix products count. `float_operators` names the arithmetic that stays
    float, most work first.

    Raises:
        QuantizationError: onnxruntime cannot load the file, or the work of a node cannot be determined.
    """
    with TemporaryDirectory(prefix="hpe-audit-") as folder:
        optimized = _optimize(model, Path(folder) / "optimized.onnx")
    macs = _count_macs(optimized, model)
    int8 = sum(count for node, count in macs if node.op_type in _INT8)
    total = sum(count for _, count in macs)
    return PlacementAudit(
        int8_mac_share=int8 / total if total else 0.0,
        int8_macs=int8,
        total_macs=total,
        float_operators=_float_operators(optimized, macs),
        onnxruntime_version=ort.__version__,
        cpu_features=cpu_features(),
    )


def _optimize(model: Path, destination: Path) -> onnx.ModelProto:
    """The graph as onnxruntime runs it, weights included."""
    # The blocked layout pads channels of float convolutions, so that their shapes would overstate the work. It does not
    # touch int8 ones.
    with _loading(model):
        inference_session(model, threads=1, without=["NchwcTransformer"], save_graph=destination)
    return onnx.load(destination)


@contextmanager
def _loading(model: Path) -> Iterator[None]:
    try:
        yield
    except REFUSALS as error:
        raise QuantizationError(f"onnxruntime cannot load {model}: {first_line(error)}") from error


def _count_macs(optimized: onnx.ModelProto, model: Path) -> list[tuple[onnx.NodeProto, int]]:
    nodes = []
    for node in optimized.graph.node:
        if node.op_type in _UNCOUNTED:
            raise QuantizationError(
                f"The work of {_label(node)} in {model.name} cannot be counted, so its int8 share is unknown.",
                hint="The audit knows convolutions and matrix products outside of loops and branches.",
            )
        if node.op_type in _FACTORS:
            nodes.append(node)
    shapes = _measure_shapes(optimized, nodes, model)
    return [(node, _macs(node, shapes)) for node in nodes]


def _macs(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    first, second = (shapes[node.input[i]] for i in _FACTORS[node.op_type])
    output = shapes[node.output[0]]
    if node.op_type in _TRANSPOSED:
        # Weight C_in × C_out/groups × k…: each input value meets every tap of its filters.
        macs = math.prod(first) * math.prod(second[1:])
    elif node.op_type in _CONVOLUTIONS or node.op_type in _INT8_CONVOLUTIONS:
        # Weight C_out × C_in/groups × k…, in either layout of the activations.
        macs = math.prod(output) * math.prod(second[1:])
    else:
        transposed = attributes_of(node).get("transA", 0)
        macs = math.prod(output) * first[-2 if transposed else -1]
    if macs <= 0:
        raise QuantizationError(f"{_label(node)} has an empty shape: {first} × {second} → {output}.")
    return macs


def _measure_shapes(optimized: onnx.ModelProto, nodes: list[onnx.NodeProto], model: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the nodes' factors and results, by running the graph once on zeros.

    The optimized graph holds onnxruntime's own operators in its own layouts, which no shape inference covers.
    """
    graph = optimized.graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    own_size = next((prop.value for prop in optimized.metadata_props if prop.key == "hpe.input_size"), None)
    feeds = {i.name: _zeros(i, model, own_size) for i in graph.input if i.name not in shapes}
    shapes |= {name: value.shape for name, value in feeds.items()}
    wanted = {name for node in nodes for name in (*(node.input[i] for i in _FACTORS[node.op_type]), node.output[0])}
    wanted -= shapes.keys()
    probe = onnx.ModelProto()
    probe.CopyFrom(optimized)
    known = {o.name for o in graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - known))
    with _loading(model):
        session = inference_session(probe.SerializeToString(), threads=1, optimized=False)
    names = sorted(wanted)
    try:
        results = session.run(names, feeds) if names else []
    except REFUSALS as error:
        raise QuantizationError(f"The shapes of {model} cannot be determined: {first_line(error)}") from error
    shapes |= {name: np.shape(value) for name, value in zip(names, results, strict=True)}
    return shapes


def _zeros(tensor: onnx.ValueInfoProto, model: Path, own_size: str | None) -> np.ndarray:
    """A blank input at batch 1; raises QuantizationError where another dimension is free and the file says no size."""
    kind = tensor.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    if own_size is not None and len(dims) == 4:
        width, height = json.loads(own_size)
        usual = (None, 3, height, width) if dims[1] == 3 else (None, height, width, 3)
        dims = [has or other for has, other in zip(dims, usual, strict=True)]
    free = [i for i, d in enumerate(dims) if i > 0 and not d]
    if free or not dims:
        raise QuantizationError(
            f"Input {tensor.name!r} of {model.name} has no fixed size in dimension {free}: its work cannot be counted.",
            hint="Export the model with a fixed height and width.",
        )
    shape = [1, *(d or 1 for d in dims[1:])]
    return np.zeros(shape, dtype=onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))


def _float_operators(optimized: onnx.ModelProto, macs: list[tuple[onnx.NodeProto, int]]) -> tuple[str, ...]:
    heavy = sorted(((n, count) for n, count in macs if n.op_type not in _INT8), key=lambda pair: -pair[1])
    named = [f"{_label(node)}: {count / 1e6:.1f} M MACs" for node, count in heavy[:_SHOWN_FLOAT_OPERATORS]]
    if len(heavy) > _SHOWN_FLOAT_OPERATORS:
        rest = sum(count for _, count in heavy[_SHOWN_FLOAT_OPERATORS:])
        named.append(f"{len(heavy) - _SHOWN_FLOAT_OPERATORS} more: {rest / 1e6:.1f} M MACs")
    counted = _FACTORS.keys() | _NO_ARITHMETIC
    light = [
        _label(node)
        for node in optimized.graph.node
        if node.op_type not in counted and not node.op_type.startswith("QLinear") and not _repeats_values(node)
    ]
    named.extend(light[:_SHOWN_FLOAT_OPERATORS])
    if len(light) > _SHOWN_FLOAT_OPERATORS:
        named.append(f"{len(light) - _SHOWN_FLOAT_OPERATORS} more without MACs")
    return tuple(named)


def _repeats_values(node: onnx.NodeProto) -> bool:
    """Whether a node enlarges or shrinks by taking the nearest value, which is not arithmetic either."""
    return node.op_type in {"Resize", "Upsample"} and attributes_of(node).get("mode", b"nearest") == b"nearest"


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"
