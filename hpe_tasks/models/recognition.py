"""Which of the project's networks a state dict belongs to, for those who named another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from hpe_tasks.networks import ARCHITECTURES, NetworkArchitecture, NetworkOptions

COUNTER = ".num_batches_tracked"
"""How the counters of batch norms end, which older files lack."""

Shapes = dict[str, torch.Size]


class Recognized(NamedTuple):
    """An architecture by its name, and the number of joints of its weights."""

    architecture: str
    joints: int


def recognize(state: Mapping[str, torch.Tensor]) -> Recognized | None:
    """The listed architecture that has these names and shapes, for any number of joints; None where there is none.

    Networks are built without memory for their weights, with the options' own defaults.
    """
    shapes = {name: tensor.shape for name, tensor in state.items() if not name.endswith(COUNTER)}
    for network in ARCHITECTURES.values():
        joints = None if network.from_file else _joints(network, shapes)
        if joints is not None:
            return Recognized(network.name, joints)
    return None


def _joints(network: NetworkArchitecture, shapes: Shapes) -> int | None:
    """For how many joints the network would have these shapes; None if for no number."""
    one = _shapes(network, 1)
    if one.keys() != shapes.keys():
        return None
    two = _shapes(network, 2)
    counts = {shapes[name][0] for name in one if one[name] != two[name] and shapes[name]}
    # Where nothing depends on the number, the network has its own.
    joints = counts.pop() if len(counts) == 1 else 1
    return joints if _shapes(network, joints) == shapes else None


def _shapes(network: NetworkArchitecture, joints: int) -> Shapes:
    if network.build is None:
        return {}
    with torch.device("meta"):
        state = network.build(NetworkOptions(joints)).state_dict()
    return {name: tensor.shape for name, tensor in state.items() if not name.endswith(COUNTER)}
