"""Channel shuffles of ONNX graphs, recognized by what they do: they move channels and change none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from hpe_tasks.models.onnx_graph import attributes_of


def channel_shuffles(
    graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]], constants: Mapping[str, np.ndarray]
) -> dict[str, tuple[str, str, NDArray[np.int64]] | None]:
    """Channel shuffles: Reshape, Transpose and Reshape that put whole channels into another order.

    Args:
        graph: Of a model in its normal form.
        shapes: N×C×H×W of its activations, by name.
        constants: By name.

    Returns:
        For the outputs of the first two operators None, for that of the last: what is shuffled, the result, and of
        which channel each of the result's is made.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    found: dict[str, tuple[str, str, NDArray[np.int64]] | None] = {}
    for first in graph.node:
        chain = [first]
        while len(chain) < 3 and len(behind := readers.get(chain[-1].output[0], [])) == 1:
            chain.append(behind[0])
        if [node.op_type for node in chain] != ["Reshape", "Transpose", "Reshape"]:
            continue
        source, target = first.input[0], chain[-1].output[0]
        if source not in shapes or target not in shapes or any(node.output[0] in outputs for node in chain[:2]):
            continue
        if any(node.input[1] not in constants for node in (chain[0], chain[2])):
            continue
        order = _order_of(chain, shapes[source], constants)
        if order is not None and shapes[target][1] == len(order):
            found |= {chain[0].output[0]: None, chain[1].output[0]: None, target: (source, target, order)}
    return found


def _order_of(
    chain: Sequence[onnx.NodeProto], shape: tuple[int, ...], constants: Mapping[str, np.ndarray]
) -> NDArray[np.int64] | None:
    """Of which channel each channel of the result is made; None where one is made of several."""
    numbers = np.broadcast_to(np.arange(shape[1])[None, :, None, None], shape)
    for node in chain:
        if node.op_type == "Transpose":
            numbers = numbers.transpose([int(axis) for axis in attributes_of(node).get("perm", [])])
            continue
        wanted = [int(side) for side in constants[node.input[1]]]
        numbers = numbers.reshape([numbers.shape[i] if side == 0 else side for i, side in enumerate(wanted)])
    order: NDArray[np.int64] = numbers[0, :, 0, 0]
    return order if (numbers == order[None, :, None, None]).all() else None
