"""The graph that onnxruntime makes of an exported file, to be published beside it: see `contract.stored_graph`.

What onnxruntime rewrites depends on its version and on the kind of machine; only the blocked layout of layers in float
depends on the processor. So a graph without such a layer is the same, byte for byte, on every x86-64 (shown by
`tests/integration/test_stored_graph.py`), and is what each would make by itself: it computes the same, and as fast. One
with such a layer is not stored, nor one of another kind of machine, where this has not been shown.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from hpe_tasks.contract.stored_graph import graph_role
from hpe_tasks.errors import QuantizationError
from hpe_tasks.onnx_runtime.session import open_session
from hpe_tasks.storage.files import sha256_file

MACHINES = ("x86_64",)

_BLOCKED = "com.microsoft.nchwc"

log = logging.getLogger(__name__)


def make_graph(model: Path, graph: Path, shapes: Sequence[tuple[int, ...]]) -> str | None:
    """Write the graph that onnxruntime makes of a model here; gives its role, or None where none is to be stored.

    Args:
        model: model.onnx, with one input.
        graph: The file to write.
        shapes: Of inputs that both are compared on.

    Raises:
        CheckpointError: onnxruntime does not run the model.
        QuantizationError: The graph does not give the model's outputs bit by bit.
    """
    if platform.machine() not in MACHINES:
        log.info("No graph is stored for %s: it might depend on the processor on this machine.", model)
        return None
    original = open_session(model, threads=1, save_graph=graph)
    if any(node.domain == _BLOCKED for node in onnx.load(graph).graph.node):
        graph.unlink()
        log.info("No graph is stored for %s: it has layers in float, whose layout depends on the processor.", model)
        return None
    stored = open_session(graph, threads=1, optimized=False)
    name = original.get_inputs()[0].name
    generator = np.random.default_rng(0)
    for shape in shapes:
        feeds = {name: generator.standard_normal(shape, dtype=np.float32)}
        pairs = zip(stored.run(None, feeds), original.run(None, feeds), strict=True)
        if any(ours.tobytes() != theirs.tobytes() for ours, theirs in pairs):
            raise QuantizationError(
                f"The graph that onnxruntime {onnxruntime.__version__} makes of {model} does not compute what it does.",
                hint="This is a fault of onnxruntime: use another version of it.",
            )
    return graph_role(sha256_file(model), platform.machine(), onnxruntime.__version__)
