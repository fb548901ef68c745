"""How good a network is in the course of its training."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import nn

from hpe_tasks.config.run import EvaluationConfig
from hpe_tasks.config.training import TrainingConfig
from hpe_tasks.data.coco import CocoDataset
from hpe_tasks.evaluation import evaluate
from hpe_tasks.models.full_precision import as_function
from hpe_tasks.models.interface import output_shapes
from hpe_tasks.records.base import Artifact
from hpe_tasks.training.norms import without_batch_norms


def average_precision(
    model: nn.Module, validation: CocoDataset, config: TrainingConfig, device: torch.device
) -> float | None:
    """COCO AP of a network on a split, in ground-truth boxes or of whole images.

    Raises:
        CheckpointError: What the network gives cannot be read.
    """
    plain, described = without_batch_norms(model).eval(), config.model_config_for("unused")
    with tempfile.TemporaryDirectory() as folder:
        report = evaluate(
            validation,
            as_function(plain, tuple(output_shapes(described)), device),
            described,
            EvaluationConfig(batch_size=config.batch_size),
            runtime="fp32",
            dataset_digest="",
            seed=config.seed,
            predictions_file=Path(folder) / "predictions.json",
            artifact=lambda path: Artifact(uri=path.as_uri(), sha256="", size_bytes=path.stat().st_size),
        )
    return report.accuracy
