"""Networks in onnxruntime on the CPU: the one place that opens them, so that all of them run alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from hpe_tasks.contract.cpu import available_threads

_LOG_ERRORS_ONLY = 3


def inference_session(
    source: Path | bytes,
    *,
    threads: int | None = None,
    optimized: bool = True,
    without: Sequence[str] = (),
    save_graph: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Load an ONNX model on the CPU; raises one of `REFUSALS` where onnxruntime does not run it.

    Args:
        source: The model's file or its bytes. From a file less memory is needed: bytes are held twice meanwhile.
        threads: Threads of one operator; by default all that this process may use. onnxruntime's own choice knows
            neither binding nor quota, and binds its threads to cores that others may be bound to.
        optimized: Let onnxruntime rewrite the graph; otherwise every node runs as it is written, which is slow.
        without: Optimizers of onnxruntime, by name, that leave the graph alone.
        save_graph: Write the graph there as it was rewritten.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.intra_op_num_threads = available_threads() if threads is None else threads
    # The operators of a pose network follow one another: threads for several at a time would only wait.
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.inter_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save_graph is not None:
        options.optimized_model_filepath = str(save_graph)
    # Threads that spin while they wait make a shared core two to three times slower.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
    )
