from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from hpe_tasks.errors import QuantizationError
from hpe_tasks.onnx_runtime import optimized_graph
from hpe_tasks.onnx_runtime.optimized_graph import make_graph
from hpe_tasks.onnx_runtime.session import open_session
from support.quantized_networks import SHAPE, float_onnx, int8_onnx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_the_graph_is_the_model_rewritten_and_computes_the_same(tmp_path: Path) -> None:
    model, graph = int8_onnx(tmp_path / "model.onnx"), tmp_path / "graph.onnx"
    role = make_graph(model, graph, [SHAPE])
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert role == f"graph-{platform.machine()}-onnxruntime-{onnxruntime.__version__}-{digest[:16]}"
    kinds = [node.op_type for node in onnx.load(graph).graph.node]
    assert kinds.count("QLinearConv") == 3
    assert len(kinds) < len(onnx.load(model).graph.node)
    images = {"input": np.random.default_rng(5).standard_normal(SHAPE, dtype=np.float32)}
    stored, original = open_session(graph, threads=1, optimized=False), open_session(model, threads=1)
    assert stored.run(None, images)[0].tobytes() == original.run(None, images)[0].tobytes()


def test_its_weights_are_the_model_s(tmp_path: Path) -> None:
    """What has been proved of the codes of model.onnx holds for the graph: it has no others."""
    model, graph = int8_onnx(tmp_path / "model.onnx"), tmp_path / "graph.onnx"
    make_graph(model, graph, [SHAPE])
    codes = [
        sorted(
            (array.shape, array.tobytes())
            for array in map(numpy_helper.to_array, onnx.load(file).graph.initializer)
            if array.dtype == np.int8 and array.ndim == 4
        )
        for file in (model, graph)
    ]
    assert len(codes[0]) == 3
    assert codes[0] == codes[1]


def test_the_same_model_gives_the_same_graph(tmp_path: Path) -> None:
    model = int8_onnx(tmp_path / "model.onnx")
    for name in ("one", "two"):
        make_graph(model, tmp_path / name, [SHAPE])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_layers_in_float_depend_on_the_processor_and_are_not_stored(tmp_path: Path) -> None:
    assert make_graph(float_onnx(tmp_path / "model.onnx"), tmp_path / "graph.onnx", [SHAPE]) is None
    assert not (tmp_path / "graph.onnx").exists()


def test_nothing_is_stored_for_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert make_graph(int8_onnx(tmp_path / "model.onnx"), tmp_path / "graph.onnx", [SHAPE]) is None
    assert not (tmp_path / "graph.onnx").exists()


def test_a_graph_that_computes_something_else_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = int8_onnx(tmp_path / "other.onnx", seed=1)

    def other_graph(path: Path, **options: Any) -> Any:
        """onnxruntime as it would be with a fault: what it writes down is another network's."""
        session = open_session(path, **{name: held for name, held in options.items() if name != "save_graph"})
        if "save_graph" in options:
            open_session(other, **options)
        return session

    monkeypatch.setattr(optimized_graph, "open_session", other_graph)
    with pytest.raises(QuantizationError, match="does not compute what it does"):
        make_graph(int8_onnx(tmp_path / "model.onnx"), tmp_path / "graph.onnx", [SHAPE])
