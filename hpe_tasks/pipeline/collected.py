"""What the steps of a run have left, collected for the report and the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpe_tasks.config.run import RunConfig
from hpe_tasks.pipeline.pipelines import pipeline_of
from hpe_tasks.pipeline.provenance import git_commit
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.report.records import RunRecords


def records_of(run: Run, *, looking_back: bool = False) -> RunRecords:
    """What the run's steps have produced so far.

    Args:
        run: The run.
        looking_back: Show what is recorded, also when inputs or code have changed since.
    """
    pipeline, load = pipeline_of(run), run.recorded if looking_back else run.find
    shown: Mapping[str, Any] = {step.shown_as: load(step) for step in pipeline.steps if step.shown_as}
    failures = pipeline.failures(run)
    return RunRecords(
        config=_without_secrets(run.config),
        run=run.name,
        started=run.started,
        git_commit=git_commit(),
        failures=failures,
        steps=pipeline.outcomes(_CollectedRun(run.config, load), failures),
        **shown,
    )


@dataclass(frozen=True)
class _CollectedRun:
    """Records as they were collected of a run."""

    config: RunConfig
    find: Callable[[Step[Any]], Any]


def _without_secrets(config: RunConfig) -> RunConfig:
    """The configuration as it is shown: addresses may hold passwords and signatures."""
    from hpe_tasks.data.fetch.transports import shown_address

    model, dataset = config.model, config.dataset
    return config.model_copy(
        update={
            "model": model.model_copy(update={"checkpoint": shown_address(model.checkpoint)}),
            "dataset": dataset.model_copy(
                update={
                    "source": shown_address(dataset.source),
                    "image_archives": dataset.image_archives and tuple(map(shown_address, dataset.image_archives)),
                    "boxes": dataset.boxes and shown_address(dataset.boxes),
                }
            ),
        }
    )
