"""Weights that a training leaves: without its batch norms, with how they came about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.annotation_files import read_annotations
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.models.training_record import TRAINING_KEY
from hpe_tasks.storage.files import write_atomically
from hpe_tasks.training.norms import without_batch_norms


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """A training's settings, as they are stored with its weights."""
    settings = config.model_dump(mode="json")
    if config.initial_weights is not None:
        # The folder's name concerns this machine only.
        settings["initial_weights"] = Path(config.initial_weights).name
    return settings


def save_weights(
    model: nn.Module, path: Path, config: TrainingConfig, dataset: CocoDataset, epochs: int, ap: float | None
) -> None:
    """Write weights and how they came about, under a temporary name first."""
    plain = without_batch_norms(model)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in plain.state_dict().items()}
    about: dict[str, Any] = {
        "architecture": config.architecture,
        "skeleton": config.skeleton,
        "input_size": [config.input_width, config.input_height],
        "epochs": epochs,
        "seed": config.seed,
        "training": settings_of(config),
        "dataset": _describe(dataset),
        "torch": torch.__version__,
    }
    if ap is not None:
        about["ap"] = round(ap, 4)
    # One entry: safetensors writes several in random order, and equal trainings should give equal files.
    write_atomically(path, save(state, metadata={TRAINING_KEY: json.dumps(about, sort_keys=True)}))


def _describe(dataset: CocoDataset) -> object:
    """The data set's own description, as its annotation file has it."""
    return read_annotations(dataset.annotation_file).get("info", {})
