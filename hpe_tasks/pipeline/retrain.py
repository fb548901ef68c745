"""The second pipeline: from a data set to a registered checkpoint, better than the live version's or not."""

from __future__ import annotations

from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.pipeline import Pipeline

RETRAIN = Pipeline(
    name="hpe_retrain",
    command="retrain",
    summary="Train a checkpoint, compare it with the one that the live version came from, and register it.",
    steps=(
        steps.fetch_dataset,
        steps.validate_dataset,
        steps.fetch_start,
        steps.train,
        steps.evaluate_checkpoint,
        steps.find_live,
        steps.evaluate_parent,
        steps.compare_checkpoints,
        steps.register_checkpoint,
        steps.announce_checkpoint,
        steps.report,
    ),
)
