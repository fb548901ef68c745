"""The graph that onnxruntime makes of model.onnx when it loads it, stored so that a cold start need not make it again.

A version of a model may hold such graphs beside model.onnx, each as a file of a role of its own, so that the manifest,
and its signature, vouch for it as for the model. It is used by the onnxruntime that made it, on its kind of machine.
"""

from __future__ import annotations

GRAPH = "graph.onnx"
"""Its name in a package's model folder."""

ROLE_PREFIX = "graph-"


def graph_role(model_sha256: str, machine: str, onnxruntime_version: str) -> str:
    """Role of the graph that this version of onnxruntime makes of this model.onnx on such a machine (`x86_64`)."""
    return f"{ROLE_PREFIX}{machine}-onnxruntime-{onnxruntime_version}-{model_sha256[:16]}"
