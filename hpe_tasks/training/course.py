"""A stage of a training in memory: the network, what changes its weights, and one step of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import nn

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.errors import ConfigError
from hpe_tasks.models.losses import LOSSES, Tensors
from hpe_tasks.models.memory import halved
from hpe_tasks.networks import ARCHITECTURES
from hpe_tasks.pose.codecs import CODECS
from hpe_tasks.training.devices import ALONE, Rank, make_fabric
from hpe_tasks.training.loading import LoadedBatch
from hpe_tasks.training.optimizing import MeanWeights, make_optimizer, rate

T = TypeVar("T")

log = logging.getLogger(__name__)


class Course:
    """Network, optimizer and schedule of a stage.

    Args:
        model: With the weights that it starts from.
        config: The stage.
        steps_per_epoch: By which the schedule counts epochs.
        device: Where to compute.
        rank: Which of the training's processes this is.

    Attributes:
        network: What learns.
        device: This process's.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        steps_per_epoch: int,
        device: torch.device,
        rank: Rank = ALONE,
    ) -> None:
        self._config, self._steps_per_epoch, self._rank = config, steps_per_epoch, rank
        self._fabric = make_fabric(config, device, rank)
        self.device = self._fabric.device
        # In memory format `channels_last` the depthwise convolutions of a CPU run twice as fast.
        self.network: nn.Module = model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._frozen = _freeze(self.network, config) if config.freeze_backbone else []
        self._raw_optimizer = make_optimizer(self.network.parameters(), config)
        self._module, self._optimizer = self._fabric.setup(self.network, self._raw_optimizer)
        self._mean = None if config.ema_decay is None else MeanWeights(self.network, config.ema_decay)
        self._loss_of = LOSSES[CODECS[config.model_config_for("unused").codec].loss]
        self._buffers = list(self.network.buffers())
        self._buffers_before = [buffer.clone() for buffer in self._buffers]
        self._done, self._micro_batch = 0, config.micro_batch

    @property
    def judged(self) -> nn.Module:
        """The network that is measured and saved: the one that learns, or the mean of its weights."""
        return self.network if self._mean is None else self._mean.network

    @property
    def scales_gradients(self) -> bool:
        """Whether gradients that are no numbers are skipped, as the scaling for float16 does on its way."""
        return self._config.float16

    def train(self) -> None:
        """Let batch norms learn, but for those of a frozen backbone."""
        self.network.train()
        for module in self._frozen:
            module.eval()

    def learn(self, batch: LoadedBatch, share: float = 1.0) -> dict[str, float]:
        """Compute a batch's gradients; gives `loss`, `learning_rate` and `gradient_norm`, before it is clipped.

        Where a GPU's memory does not suffice, the batch is computed in parts of half the size, from then on.

        Args:
            batch: This process's part of it.
            share: How much larger or smaller the part is than the mean of all processes' parts.

        Raises:
            ConfigError: The memory does not suffice for one example, or for the part of one of several devices.
        """
        learning_rate = self._config.learning_rate * rate(self._done, self._steps_per_epoch, self._config)
        for group in self._raw_optimizer.param_groups:
            group["lr"] = learning_rate
        if self._buffers:
            torch._foreach_copy_(self._buffers_before, self._buffers)
        while True:
            try:
                loss = self._gradients(batch, share)
                break
            except torch.OutOfMemoryError as error:
                self.take_back()
                if self._rank.processes > 1:  # the others wait for gradients of the parts that they know of
                    raise ConfigError("The GPUs' memory does not suffice.", hint="Set micro_batch.") from error
                self._micro_batch = halved(min(self._micro_batch or len(batch), len(batch)), "example", error)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            log.warning("The memory does not suffice: from here on, %d examples at a time.", self._micro_batch)
        return {"loss": loss, "learning_rate": learning_rate, "gradient_norm": self._clip()}

    def take_back(self) -> None:
        """Forget a batch that was computed: the weights have not changed, but batch norms have seen it."""
        self._raw_optimizer.zero_grad(set_to_none=True)
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._buffers_before)

    def update(self) -> None:
        """Change the weights by the gradients."""
        self._optimizer.step()
        self._done += 1
        if self._mean is not None:
            self._mean.update(self.network)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on, but for its batch."""
        return {
            "done": self._done,
            "micro_batch": self._micro_batch,
            "network": self.network.state_dict(),
            "optimizer": self._raw_optimizer.state_dict(),
            "scaler": self._fabric.strategy.precision.state_dict(),
            "mean": None if self._mean is None else self._mean.state(),
            "random": _random_state(self.device),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._done, self._micro_batch = state["done"], state["micro_batch"]
        self.network.load_state_dict(state["network"])
        self._raw_optimizer.load_state_dict(state["optimizer"])
        self._fabric.strategy.precision.load_state_dict(state["scaler"])
        if self._mean is not None:
            self._mean.restore(state["mean"])
        torch.set_rng_state(state["random"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)

    def _gradients(self, batch: LoadedBatch, share_of_all: float) -> float:
        self._raw_optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part, share_of_batch, last in _parts(batch, self._micro_batch):
            share = share_of_batch * share_of_all
            images = self._to_device(part.images)
            targets, weights = (
                {name: self._to_device(tensor) for name, tensor in tensors.items()}
                for tensors in (part.targets, part.weights)
            )
            with self._fabric.no_backward_sync(self._module, enabled=not last and self._rank.processes > 1):
                stages = _outputs_of_stages(self._module, images, tuple(targets))
                # Each stage learns the same.
                loss = torch.stack([self._loss_of(found, targets, weights) for found in stages]).sum()
                if share != 1:
                    loss = loss * share
                self._fabric.backward(loss)
            total += float(loss.detach())
        if self._rank.processes == 1:
            return total
        mean = self._fabric.all_reduce(torch.tensor(total, dtype=torch.float64, device=self.device))
        return cast("torch.Tensor", mean).item()

    def shared(self, value: T) -> T:
        """What the first process has of this, in all of them."""
        return value if self._rank.processes == 1 else self._fabric.broadcast(value)

    def _clip(self) -> float:
        most = self._config.gradient_clip_norm
        if most is not None or self.scales_gradients:
            # Without a limit, it only takes the scale away.
            norm = self._fabric.clip_gradients(
                self._module, self._optimizer, max_norm=most or float("inf"), error_if_nonfinite=False
            )
            return float(norm) if norm is not None else 0.0
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=True)


def _freeze(network: nn.Module, config: TrainingConfig) -> list[nn.Module]:
    """Freeze the weights of the backbone; gives its batch norms, which must not learn either."""
    head = ARCHITECTURES[config.architecture].head
    if not head:
        raise ConfigError(f"{config.architecture} has no head by itself.", hint="Leave freeze_backbone out.")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.split(".")[0] in head)
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and name.split(".")[0] not in head
    ]


def _parts(batch: LoadedBatch, size: int | None) -> Iterator[tuple[LoadedBatch, float, bool]]:
    """The batch in parts of this size, each with its share of the batch, and whether it is the last."""
    if size is None or size >= len(batch):
        yield batch, 1.0, True
        return
    for first in range(0, len(batch), size):
        part = batch.part(first, first + size)
        yield part, len(part) / len(batch), first + size >= len(batch)


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _outputs_of_stages(model: nn.Module, images: torch.Tensor, names: Sequence[str]) -> list[Tensors]:
    """The outputs of each of the network's stages, by the codec's names."""
    output = model(images)
    tensors = (output,) if isinstance(output, torch.Tensor) else output
    stages = (tensors[i : i + len(names)] for i in range(0, len(tensors), len(names)))
    return [dict(zip(names, stage, strict=True)) for stage in stages]
