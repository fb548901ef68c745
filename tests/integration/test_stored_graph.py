"""The graph that is stored for functions is the one that every x86-64 would make by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpe_tasks.onnx_runtime.optimized_graph import make_graph
from support import processors
from support.quantized_networks import SHAPE, float_onnx, int8_onnx

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

_GRAPH = """
import hashlib, sys
from pathlib import Path
from hpe_tasks.onnx_runtime.session import open_session
open_session(Path(sys.argv[1]), threads=1, save_graph=Path(sys.argv[2]))
print(hashlib.sha256(Path(sys.argv[2]).read_bytes()).hexdigest())
"""


def graph_on(processor: str, model: Path) -> str:
    """SHA-256 of what onnxruntime makes of a model on a processor."""
    return processors.run_on(processor, ["-c", _GRAPH, model, model.with_name(f"{processor}.onnx")]).strip()


@pytest.mark.parametrize("processor", ["sse4", "avx2", "avx512"])
def test_every_processor_makes_the_same_graph(processor: str, tmp_path: Path) -> None:
    model = int8_onnx(tmp_path / "model.onnx")
    assert make_graph(model, tmp_path / "graph.onnx", [SHAPE]) is not None
    # In a process of its own, as those on the others: what else a process has loaded may show in the file.
    assert graph_on(processor, model) == graph_on("host", model)


def test_the_graph_of_layers_in_float_depends_on_the_processor(tmp_path: Path) -> None:
    """Which is why none is stored: this comparison can tell processors apart."""
    model = float_onnx(tmp_path / "model.onnx")
    assert graph_on("avx512", model) != graph_on("avx2", model)
