"""The quantized activations of an exported file: what it computes, and what each of its layers makes of given codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.onnx_runtime.kernels import GIVEN, taken_apart
from hpe_tasks.onnx_runtime.session import open_session

Tensors = dict[str, NDArray[Any]]

_MOVES = {"DepthToSpace", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators whose results are values of their first input."""


@dataclass(frozen=True)
class CodedTensor:
    """An activation in codes of one scale and zero point.

    Attributes:
        name: Of the tensor that holds the codes.
        dtype: Of the codes.
    """

    name: str
    scale: float
    zero_point: int
    dtype: np.dtype[Any]

    @property
    def bounds(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        limits = np.iinfo(self.dtype)
        return int(limits.min), int(limits.max)

    @property
    def low(self) -> float:
        """The smallest value that the codes hold."""
        return (self.bounds[0] - self.zero_point) * self.scale

    @property
    def high(self) -> float:
        """The largest one."""
        return (self.bounds[1] - self.zero_point) * self.scale

    def codes(self, values: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """Values in these codes, as QuantizeLinear rounds them."""
        rounded = np.rint(values / np.float32(self.scale)) + self.zero_point
        coded: NDArray[Any] = np.clip(rounded, *self.bounds).astype(self.dtype)
        return coded

    def values(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """What codes stand for."""
        restored: NDArray[np.float32] = (codes.astype(np.int64) - self.zero_point).astype(np.float32)
        return restored * np.float32(self.scale)


_Coded = tuple[CodedTensor, tuple[int, ...]]
_Ranged = tuple[float | None, float | None, tuple[int, ...]]


class FileLayers:
    """An exported file whose quantized activations can be read, and given.

    Args:
        path: The file.
        config: Its input layout.

    Raises:
        CheckpointError: onnxruntime does not run the file.
    """

    def __init__(self, path: Path, config: ModelConfig) -> None:
        self._path, self._nhwc = path, config.input_layout == "nhwc"
        self._model = onnx.load(path)
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._model.graph.output)
        self.tensors: tuple[CodedTensor, ...] = _coded_activations(self._model)
        known = set(self.outputs)
        self._model.graph.output.extend(
            onnx.ValueInfoProto(name=tensor.name) for tensor in self.tensors if tensor.name not in known
        )
        self._names = [output.name for output in self._model.graph.output]
        self._whole = open_session(path, self._model.SerializeToString())
        self._apart: onnxruntime.InferenceSession | None = None

    def run(self, image: NDArray[np.float32]) -> Tensors:
        """Codes and outputs that the file computes from an image 3×H×W."""
        return dict(zip(self._names, self._whole.run(self._names, self._feeds(image)), strict=True))

    def run_given(self, image: NDArray[np.float32], codes: Mapping[str, NDArray[Any]]) -> Tensors:
        """What each layer makes of these codes, which stand for all that is computed before it.

        Args:
            image: 3×H×W, for what reads it directly.
            codes: Of every one of `tensors`, by name.
        """
        given = {GIVEN + name: array for name, array in codes.items()}
        if self._apart is None:
            self._apart = open_session(self._path, taken_apart(self._model, given).SerializeToString())
        return dict(zip(self._names, self._apart.run(self._names, self._feeds(image) | given), strict=True))

    def _feeds(self, image: NDArray[np.float32]) -> Tensors:
        shown = image.transpose(1, 2, 0) if self._nhwc else image
        return {self._whole.get_inputs()[0].name: np.ascontiguousarray(shown[None])}


def _coded_activations(model: onnx.ModelProto) -> tuple[CodedTensor, ...]:
    """Codes of one scale and zero point that are dequantized again, in the graph's order.

    Codes that are those of an earlier tensor, only laid out anew, are no layer of their own.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}

    def code_of(node: onnx.NodeProto) -> tuple[float, int, np.dtype[Any]] | None:
        if len(node.input) < 3 or any(name not in constants for name in node.input[1:3]):
            return None
        scale, zero = (constants[name] for name in node.input[1:3])
        return (float(scale.item()), int(zero.item()), zero.dtype) if scale.size == zero.size == 1 else None

    def only_moved(node: onnx.NodeProto) -> bool:
        quantize = producers.get(node.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            return False
        source = producers.get(quantize.input[0])
        while source is not None and source.op_type in _MOVES:
            source = producers.get(source.input[0])
        return source is not None and source.op_type == "DequantizeLinear" and code_of(source) == code_of(node)

    found: dict[str, CodedTensor] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            code = code_of(node)
            if code is not None and not only_moved(node):
                found.setdefault(node.input[0], CodedTensor(node.input[0], *code))
    return tuple(found.values())


def matched(file: Sequence[_Coded], others: Sequence[_Ranged]) -> dict[str, int]:
    """Which of some ranges, each (lowest, highest, shape of the tensor), is that of each coded tensor of a file.

    Names do not tell: an export gives a tensor that of the layer or of the activation behind it. But both come in the
    order of the same graph, and few ranges are the same: the longest common sequence matches them.

    Returns:
        Positions in `others` by the name of the file's tensor; without those that have no counterpart.
    """
    rows, columns = len(file), len(others)
    length = np.zeros((rows + 1, columns + 1), dtype=np.int32)
    same = np.array([[_same(tensor, other) for other in others] for tensor in file], dtype=np.bool_)
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            length[i, j] = length[i + 1, j + 1] + 1 if same[i, j] else max(length[i + 1, j], length[i, j + 1])
    pairs, i, j = {}, 0, 0
    while i < rows and j < columns:
        if same[i, j]:
            pairs[file[i][0].name] = j
            i, j = i + 1, j + 1
        elif length[i + 1, j] >= length[i, j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def _same(
    tensor: tuple[CodedTensor, tuple[int, ...]], other: tuple[float | None, float | None, tuple[int, ...]]
) -> bool:
    (coded, shape), (low, high, other_shape) = tensor, other
    if low is None or high is None or shape != other_shape:
        return False
    reach = 0.05 * coded.scale
    return abs(coded.low - low) <= reach and abs(coded.high - high) <= reach
