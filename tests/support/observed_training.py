"""A small network that really learns, and tells observers what it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpe_tasks.training.observing import Observer

SETTINGS: dict[str, Any] = {
    "architecture": "pose_mobilenet", "input_width": 64, "input_height": 96, "learning_rate": 0.05, "codec": None,
}  # fmt: skip


def small_network() -> nn.Module:
    """Two convolutions with batch norms, and a last one; the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1),
        )  # fmt: skip


def observed_training(
    observers: Sequence[Observer],
    *,
    epochs: int = 3,
    batches: int = 4,
    done: int = 0,
    settings: Mapping[str, Any] = SETTINGS,
    files: Sequence[Path] = (),
    network: nn.Module | None = None,
    between: Callable[[nn.Module], None] = lambda _: None,
    stop_after: int | None = None,
) -> nn.Module:
    """Learn to give a constant map from noise.

    Args:
        observers: Are told as the training of a pose network tells them.
        epochs: Passes over the batches.
        batches: Steps of an epoch.
        done: Steps that were made before, at the end of an epoch.
        settings: Of the stage.
        files: What the stage has left.
        network: Learns; by default the small one.
        between: Is done with the network after each epoch.
        stop_after: Go away without a word after so many steps, as a killed training does.
    """
    network = small_network() if network is None else network
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    noise = torch.Generator().manual_seed(0)
    step, steps, loss_mean = done, epochs * batches, 0.0
    for observer in observers:
        observer.begins(settings, network, steps=steps, done=done)
    for epoch in range(done // batches, epochs):
        network.train()
        losses = []
        for _ in range(batches):
            began = time.monotonic()
            images = torch.rand(4, 3, 8, 8, generator=noise)
            loss = ((network(images) - 0.5) ** 2).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
            step += 1
            figures = {"loss": losses[-1], "learning_rate": 0.05, "gradient_norm": float("nan"),
                       "examples_per_s": 4 / (time.monotonic() - began)}  # fmt: skip
            for observer in observers:
                observer.stepped(step, figures)
            if step == stop_after:
                return network
        loss_mean = sum(losses) / len(losses)
        network.eval()
        between(network)
        for observer in observers:
            observer.measured(step, {"epoch": epoch + 1, "loss": loss_mean, "ap": 0.1 * (epoch + 1)})
    for observer in observers:
        observer.ends({"loss": loss_mean, "ap": 0.1 * epochs}, files)
    return network
