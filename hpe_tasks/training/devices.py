"""Where a training computes, and how exactly: Lightning Fabric with one device, or one of several processes.

Source: https://lightning.ai/docs/fabric; several devices share the batch, and their gradients are averaged (PyTorch's
DistributedDataParallel).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.errors import ConfigError

_LONGEST_WAIT = timedelta(hours=3)
"""How long processes wait for the first, which measures AP alone."""


@dataclass(frozen=True)
class Rank:
    """One of the processes of a training, each with a device of its own.

    Attributes:
        number: From 0; that one measures, saves and tells.
        processes: How many there are.
        port: Of this machine, where they meet.
    """

    number: int = 0
    processes: int = 1
    port: int = 0

    @property
    def first(self) -> bool:
        """Whether it measures, saves and tells."""
        return self.number == 0


ALONE = Rank()
"""The one process of a training on one device."""


class _OneMachine(ClusterEnvironment):
    """Tells Fabric of processes that the project itself has started, whatever the environment's variables say."""

    creates_processes_externally = True
    main_address = "127.0.0.1"

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    @property
    def main_port(self) -> int:
        return self._rank.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._rank.processes

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._rank.number

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._rank.number

    def node_rank(self) -> int:
        return 0


def make_fabric(config: TrainingConfig, device: torch.device, rank: Rank) -> Fabric:
    """Fabric for this process's device and the precision of the settings.

    Raises:
        ConfigError: The device does not compute in float16, or there are too few of it.
    """
    if config.float16 and device.type == "cpu":
        raise ConfigError("float16 needs a GPU.", hint="Set bfloat16, or none of the two.")
    if device.type == "cuda" and rank.processes > torch.cuda.device_count():
        raise ConfigError(
            f"devices is {rank.processes}, but this machine has {torch.cuda.device_count()}.", hint="Set fewer."
        )
    settings: dict[str, Any] = {"accelerator": device.type, "devices": rank.processes}
    settings["precision"] = "16-mixed" if config.float16 else "bf16-mixed" if config.bfloat16 else "32-true"
    if rank.processes == 1:
        return Fabric(**settings)
    # Statistics of batch norms stay each process's own; the first's are saved.
    shared = DDPStrategy(cluster_environment=_OneMachine(rank), timeout=_LONGEST_WAIT, forward_sync_buffers=False)
    fabric = Fabric(strategy=shared, **settings)
    fabric.launch()
    return fabric
