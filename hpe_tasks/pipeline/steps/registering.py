"""The steps that keep a trained checkpoint, and tell of it where it is worth a requantization."""

from __future__ import annotations

from datetime import UTC, datetime

from hpe_tasks.config.run import RunConfig
from hpe_tasks.pipeline.reach import code_version
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Results, step
from hpe_tasks.pipeline.steps.inputs import fetch_dataset
from hpe_tasks.pipeline.steps.measuring import network_settings
from hpe_tasks.pipeline.steps.retraining import compare_checkpoints, evaluate_checkpoint, train, unfinished
from hpe_tasks.records.evaluation import EvaluationReport
from hpe_tasks.records.retraining import (
    AnnouncedCheckpoint,
    CheckpointComparison,
    CheckpointLineage,
    LineageFigure,
    RegisteredCheckpoint,
)
from hpe_tasks.storage.workspace import Scratch


@step(
    RegisteredCheckpoint,
    "Registration",
    needs=(fetch_dataset, train, evaluate_checkpoint, compare_checkpoints),
    settings=lambda c: c.destination.registry,
    reuse=False,
    tell=lambda record: record.checkpoint,
    shown_as="registered",
)
def register_checkpoint(run: Run, _: Scratch) -> RegisteredCheckpoint:
    """Put the checkpoint into the registry, better or not, with what it came from.

    Raises:
        AccessError: The registry cannot be written.
    """
    from hpe_tasks.registry.checkpoints import CheckpointStore
    from hpe_tasks.storage.s3 import S3Location

    trained, compared = run.result(train), run.result(compare_checkpoints)
    store = CheckpointStore(run.s3(), S3Location.parse(run.config.destination.registry))
    lineage, created = store.add(run.workspace.local(trained.checkpoint), _lineage(run, compared))
    run.workspace.discard(unfinished(run))
    return RegisteredCheckpoint(
        checkpoint=str(store.address(trained.checkpoint.sha256)),
        sha256=trained.checkpoint.sha256,
        size_bytes=trained.checkpoint.size_bytes,
        lineage=lineage,
        created=created,
        outcome=compared.outcome,
        reason=compared.reason,
    )


def _lineage(run: Run, compared: CheckpointComparison) -> CheckpointLineage:
    from hpe_tasks.config.stages import training_split
    from hpe_tasks.pipeline.provenance import git_commit, user
    from hpe_tasks.quantization import tool_versions

    trained, dataset = run.result(train), run.result(fetch_dataset)
    return CheckpointLineage(
        sha256=trained.checkpoint.sha256,
        size_bytes=trained.checkpoint.size_bytes,
        model=network_settings(run.config),
        dataset_source=dataset.source,
        dataset_digest=dataset.digest,
        training_split=training_split(run.config),
        stages=trained.stages,
        started_from=trained.started_from,
        live_version=compared.live_version,
        parent_sha256=compared.parent_sha256,
        outcome=compared.outcome,
        reason=compared.reason,
        figure=_figure(run.result(evaluate_checkpoint), compared),
        code=code_version(train.body),
        git_commit=git_commit(),
        tool_versions={name: version for name, version in tool_versions().items() if not name.startswith("aimet")},
        run=run.name,
        created_at=datetime.now(UTC),
        created_by=user(),
    )


def _figure(report: EvaluationReport, compared: CheckpointComparison) -> LineageFigure:
    from hpe_tasks.metrics.image_tables import WHOLE

    whole = compared.paired.part(WHOLE) if compared.paired else None
    return LineageFigure(
        metric=report.fingerprint.metric,
        persons=report.fingerprint.num_persons,
        images=report.fingerprint.num_images,
        checkpoint=report.accuracy,
        parent=whole.before if whole else None,
        low=whole.low if whole else None,
        high=whole.high if whole else None,
    )


def _not_better(results: Results) -> str:
    """A checkpoint that is no better starts nothing."""
    compared = results.find(compare_checkpoints)
    return "" if compared is None or compared.better else f"{compared.reason}."


def _network(config: RunConfig) -> dict[str, object]:
    return {key: value for key, value in network_settings(config).items() if value is not None}


@step(
    AnnouncedCheckpoint,
    "Announcement",
    needs=(compare_checkpoints, register_checkpoint),
    settings=network_settings,
    skip=_not_better,
    reuse=False,
    tell=lambda record: record.checkpoint,
)
def announce_checkpoint(run: Run, _: Scratch) -> AnnouncedCheckpoint:
    """Tell of a better checkpoint, so that its requantization can begin."""
    registered = run.result(register_checkpoint)
    return AnnouncedCheckpoint(
        checkpoint=registered.checkpoint,
        sha256=registered.sha256,
        model=_network(run.config),
        reason=registered.reason,
    )
