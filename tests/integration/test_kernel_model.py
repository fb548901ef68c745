"""onnxruntime's int8 kernels add what the kernel model says, on each kind of processor and in each kind of layer.

Pairs of weights of small layers are tried one by one: each output channel holds two large weights and zeros, so that a
clipped sum shows which products a kernel adds in 16 bits. Then weights that the proof accepts, as tight as they can be,
meet the activations that are worst for them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hpe_tasks.contract.cpu import VNNI, cpu_features
from hpe_tasks.onnx_runtime.kernel_model import arm64_margin, x86_margin
from hpe_tasks.quantization.weight_grid import Layer, fit_grid
from support import processors

pytestmark = [pytest.mark.slow, pytest.mark.integration]

RUN = """
import sys
from pathlib import Path

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
for model in sorted(Path(sys.argv[1]).glob("*.onnx")):
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    np.save(model.with_suffix(".out.npy"), session.run(None, {"x": np.load(model.with_suffix(".npy"))})[0])
"""

X86 = ("host", "vnni", "avx512", "avx2", "sse4", "haswell", "nehalem")
ARM64 = ("cortex-a72", "neoverse-n1", "arm64-max")

STEP = 600.0
"""Of the output's codes, in products: 255 × 127 twice are 108 codes, and 53 when their sum is clipped to 16 bits."""
MIDDLE = 128


@dataclass(frozen=True)
class Kind:
    """A kind of layer. It gets as many output channels as a test needs.

    Attributes:
        fan_in: Input channels that an output channel sees.
        taps: Height and width of the kernel; 0 for a product with a matrix.
        groups: Of a convolution; None for depthwise ones, which have as many as channels.
        multiple: What the number of output channels is a multiple of, and 1 more.
    """

    fan_in: int
    taps: int
    groups: int | None = 1
    multiple: int = 16
    more: int = 0

    @property
    def length(self) -> int:
        return self.fan_in * max(self.taps, 1) ** 2

    @property
    def depthwise(self) -> bool:
        return self.groups is None

    def outputs(self, at_least: int) -> int:
        return -(-at_least // self.multiple) * self.multiple + self.more

    def weight(self, rows: np.ndarray) -> np.ndarray:
        """Weights whose `kernel_order` is `rows`."""
        if not self.taps:
            return rows
        return np.moveaxis(rows.reshape(len(rows), self.taps, self.taps, self.fan_in), -1, 1)


# MLAS takes some convolutions directly (multiples of 4 and 16 channels; on arm64 from 64 inputs and 2×2 taps on, and
# depthwise ones in multiples of 16) and unfolds the others.
KINDS = {
    "3x3 of 3": Kind(3, 3),
    "3x3 of 8": Kind(8, 3),
    "3x3 of 5": Kind(5, 3, more=1),
    "3x3 of 64": Kind(64, 3),
    "2x2 of 64": Kind(64, 2),
    "2x2 of 6": Kind(6, 2),
    "1x1 of 16": Kind(16, 1),
    "1x1 of 17": Kind(17, 1),
    "1x1 of 64": Kind(64, 1),
    "groups of 4": Kind(4, 3, groups=4),
    "groups of 3": Kind(3, 3, groups=4, multiple=4),
    "filters of a depth multiplier": Kind(1, 3, groups=8),
    "depthwise 3x3": Kind(1, 3, groups=None),
    "depthwise 3x3, odd": Kind(1, 3, groups=None, more=1),
    "depthwise 5x5": Kind(1, 5, groups=None),
    "depthwise 2x2": Kind(1, 2, groups=None),
    "matrix of 18": Kind(18, 0),
    "matrix of 17": Kind(17, 0, more=1),
}


def save(path: Path, kind: Kind, rows: np.ndarray, data: np.ndarray) -> None:
    """A quantized layer with these codes and the activations that it is given, N × K in kernel order for all groups."""
    groups = len(rows) if kind.groups is None else kind.groups
    layer = helper.make_node("Conv", ["d", "w"], ["s"], group=groups)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["codes", "ones", "zeros"], ["w"], axis=0 if kind.taps else 1),
        layer if kind.taps else helper.make_node("MatMul", ["d", "w"], ["s"]),
        helper.make_node("QuantizeLinear", ["s", "step", "middle"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "one", "zero"], ["y"]),
    ]
    codes = kind.weight(rows).astype(np.int8)
    shown = data.astype(np.float32)
    if kind.taps:
        image = np.moveaxis(shown.reshape(len(data), kind.taps, kind.taps, kind.fan_in), -1, 1)
        shown = np.tile(image, (1, groups, 1, 1))
    constants: dict[str, Any] = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "codes": np.ascontiguousarray(codes if kind.taps else codes.T),
        "ones": np.ones(len(rows), np.float32),
        "zeros": np.zeros(len(rows), np.int8),
        "step": np.float32(STEP),
        "middle": np.uint8(MIDDLE),
    }
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, *shown.shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    np.save(path.with_suffix(".npy"), shown)


def computed(path: Path, channels: int) -> np.ndarray:
    return np.load(path.with_suffix(".out.npy")).reshape(-1, channels)


def without_clipping(rows: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The output's codes when sums are whole, N × C_out."""
    return np.clip(np.rint(data.astype(np.int64) @ rows.T.astype(np.int64) / STEP) + MIDDLE, 0, 255)


def chosen_pairs(length: int) -> list[tuple[int, int]]:
    """All pairs of weights of a channel; of a long channel near ones and a sample of the others."""
    every = list(itertools.combinations(range(length), 2))
    if len(every) <= 700:
        return every
    near = [(i, j) for i, j in every if j - i in {1, 2, 3, 4, 8, 16} and i < 48]
    drawn = np.random.default_rng(0).choice(len(every), 256, replace=False)
    return sorted({*near, *(every[i] for i in drawn)})


def pairs_that_are_not_exact(name: str, folder: Path, value: int, activation: int) -> dict[str, set[tuple[int, int]]]:
    """Of each kind of layer the pairs of weights whose products a processor's kernel does not add exactly."""
    written = {}
    for number, (title, kind) in enumerate(KINDS.items()):
        tried = chosen_pairs(kind.length)
        rows = np.zeros((kind.outputs(len(tried)), kind.length), np.int64)
        for row, pair in zip(rows, tried, strict=False):
            row[list(pair)] = value
        data = np.full((1, kind.length), activation)
        save(folder / f"{number}.onnx", kind, rows, data)
        written[title] = (folder / f"{number}.onnx", tried, rows, data)
    processors.run_on(name, ["-c", RUN, str(folder)])
    found = {}
    for title, (path, tried, rows, data) in written.items():
        off = np.abs(computed(path, len(rows)) - without_clipping(rows, data))[0] > 2
        found[title] = {pair for pair, wrong in zip(tried, off, strict=False) if wrong}
    return found


@pytest.mark.parametrize("value", [127, -127])
@pytest.mark.parametrize("name", X86)
def test_on_x86_the_pairs_are_neighbours_or_none(name: str, value: int, tmp_path: Path) -> None:
    found = pairs_that_are_not_exact(name, tmp_path, value, 255)
    exact = processors.PROCESSORS[name].exact
    if exact is None:
        features = set(cpu_features())
        exact = bool(features & set(VNNI)) or "avx2" not in features
    for title, kind in KINDS.items():
        neighbours = {(i, j) for i, j in chosen_pairs(kind.length) if i % 2 == 0 and j == i + 1}
        assert found[title] == (set() if exact or kind.depthwise else neighbours), title


@pytest.mark.parametrize("value", [127, -127])
@pytest.mark.parametrize("name", ARM64)
def test_on_arm64_codes_from_minus_127_on_are_added_exactly(name: str, value: int, tmp_path: Path) -> None:
    """With either extreme activation: 0 and 255 are -128 and 127 there."""
    for activation in (0, 255):
        folder = tmp_path / str(activation)
        folder.mkdir()
        assert not any(pairs_that_are_not_exact(name, folder, value, activation).values())


def tight_rows(kind: Kind, count: int) -> np.ndarray:
    """Codes of the product's own grid, and of the proof's edge: pairs that sum to exactly 128."""
    random = np.random.default_rng(1)
    weight = random.standard_t(3, (count // 2, kind.length))
    step = np.abs(weight).max(axis=1) / 127
    grid = fit_grid(weight, step, np.zeros(len(step)), Layer("free" if kind.depthwise else "conv", 0))
    fitted = np.rint(grid.values / grid.scale[:, None]).astype(np.int64)
    first = random.integers(1, 128, (count - len(fitted), -(-kind.length // 2)))
    both = np.stack([first, 128 - first], axis=2).reshape(len(first), -1)[:, : kind.length]
    signs = np.where(random.random((len(both), both.shape[1])) < 0.1, -1, 1) * random.choice([-1, 1], (len(both), 1))
    return np.concatenate([fitted, both * signs])


@pytest.mark.parametrize("name", [*X86, *ARM64])
def test_weights_that_the_proof_accepts_are_added_exactly(name: str, tmp_path: Path) -> None:
    written = {}
    for number, (title, kind) in enumerate(KINDS.items()):
        rows = tight_rows(kind, kind.outputs(32))
        assert x86_margin(rows, depthwise=kind.depthwise).min() >= 0
        assert arm64_margin(rows).min() >= 0
        # For each of the first channels the activations that make its sums largest and smallest, then any.
        worst = [np.where(sign * row > 0, 255, 0) for row in rows[:: max(1, len(rows) // 8)] for sign in (1, -1)]
        data = np.stack([*worst, *np.random.default_rng(2).integers(0, 256, (4, kind.length))])
        # Sums of long channels go beyond what one step can show: a few weights at a time.
        shown = np.zeros_like(data)
        for index, row in enumerate(data):
            start = 8 * (index % max(1, kind.length // 8))
            shown[index, start : start + 8] = row[start : start + 8]
        save(tmp_path / f"{number}.onnx", kind, rows, shown)
        written[title] = (tmp_path / f"{number}.onnx", rows, shown)
    processors.run_on(name, ["-c", RUN, str(tmp_path)])
    for title, (path, rows, shown) in written.items():
        difference = np.abs(computed(path, len(rows)) - without_clipping(rows, shown))
        assert difference.max() <= 1, title
