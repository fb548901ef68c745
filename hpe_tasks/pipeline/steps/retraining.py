"""The steps that train a checkpoint, and measure it and the one that the live version came from."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import MissingInputError
from hpe_tasks.pipeline.runs import UNFINISHED, Run
from hpe_tasks.pipeline.step import Results, Sharding, step
from hpe_tasks.pipeline.steps.inputs import checkpoint_file, dataset_of, fetch_dataset, split_of, validate_dataset
from hpe_tasks.pipeline.steps.measuring import evaluate_in_shards, fp32_of, measurement_settings, network_settings
from hpe_tasks.pipeline.steps.sharding import num_shards, shard_of
from hpe_tasks.records.base import Artifact
from hpe_tasks.records.evaluation import EvaluationReport
from hpe_tasks.records.retraining import CheckpointComparison, LiveCheckpoint, StartingWeights, TrainedCheckpoint
from hpe_tasks.storage.devices import devices_held
from hpe_tasks.storage.files import digest_of, sha256_file
from hpe_tasks.storage.workspace import Scratch

if TYPE_CHECKING:
    from hpe_tasks.evaluation.shards import StoredShard
    from hpe_tasks.inference import Predict
    from hpe_tasks.metrics.image_tables import ImageTable

log = logging.getLogger(__name__)


def _live_of(run: Run) -> tuple[LiveCheckpoint, Path | None]:
    """What the configured channel serves now, and the checkpoint that it came from, on this machine."""
    from hpe_tasks.pipeline.fine_tuning import checkpoint_of
    from hpe_tasks.registry.publishing import ModelRegistry
    from hpe_tasks.storage.s3 import S3Location

    destination = run.config.destination
    at = LiveCheckpoint(registry=destination.registry, name=destination.name, channel=destination.channel)
    registry = ModelRegistry(run.s3(), S3Location.parse(destination.registry))
    if destination.channel not in registry.channels(destination.name):
        return at, None
    manifest = registry.served(destination.name, destination.channel)
    asked = manifest.build.build_definition.external_parameters if manifest.build else {}
    settings = asked.get("model") or network_settings(run.config)
    file = checkpoint_of(manifest, registry, workspace=run.workspace.uri, cache=run.cache, s3=run.s3)
    source = manifest.provenance.checkpoint_source
    # The rest of the record is known once the file lies in the workspace.
    return at.model_copy(update={"version": manifest.version, "source": source, "model": settings}), file


def _start_of(run: Run) -> tuple[StartingWeights, Path]:
    config = run.config
    if config.training.start == "live":
        live, file = _live_of(run)
        if file is not None:
            return _described(live.source, file, live.version), file
        log.warning("%s of %s serves nothing yet: starting from model.checkpoint.", live.channel, live.name)
    allowed = config.dataset.allow_private_addresses
    file = checkpoint_file(config.model, run.cache, run.s3, run.workspace, allow_private_addresses=allowed)
    return _described(config.model.checkpoint, file, None), file


def _described(source: str, file: Path, version: str | None) -> StartingWeights:
    from hpe_tasks.config.addresses import shown_address
    from hpe_tasks.records.base import Artifact

    artifact = Artifact(uri="", sha256=sha256_file(file), size_bytes=file.stat().st_size)
    return StartingWeights(source=shown_address(source), file=artifact, live_version=version)


def _start_digest(run: Run) -> str:
    from hpe_tasks.data.fetch.taken_in import check_checkpoint

    found, file = run.at_hand["start"] = _start_of(run)
    if not run.config.training.given().get("new_head"):
        check_checkpoint(run.config.model, file, run.cache)
    return digest_of([found.model_dump(mode="json"), file.name])


def _starts_at_random(results: Results) -> str:
    return "training.start is random." if results.config.training.start == "random" else ""


@step(
    StartingWeights,
    "Starting weights",
    found=_start_digest,
    skip=_starts_at_random,
    tell=lambda record: record.file.sha256,
)
def fetch_start(run: Run, scratch: Scratch) -> StartingWeights:
    """Bring the weights that the training starts from into the workspace.

    Raises:
        CheckpointError: They cannot be read, or do not fit the network.
    """
    found, file = run.at_hand["start"]
    kept = scratch.path / file.name
    shutil.copyfile(file, kept)
    record: StartingWeights = found.model_copy(update={"file": scratch.artifact(kept)})
    return record


def _training_settings(config: RunConfig) -> list[Any]:
    dataset = config.dataset
    splits = [dataset.training_split, dataset.calibration_split, dataset.evaluation_split]
    # What a better checkpoint is decides nothing of how it is trained.
    asked = config.training.model_dump(mode="json", exclude={"start", "min_gain"})
    return [network_settings(config), asked, splits, config.seed]


@step(
    TrainedCheckpoint,
    "Training",
    needs=(fetch_dataset, validate_dataset),
    needs_unless_skipped=(fetch_start,),
    settings=_training_settings,
    tell=lambda record: record.checkpoint.sha256,
    shown_as="trained",
)
def train(run: Run, scratch: Scratch) -> TrainedCheckpoint:
    """Train the network on the data set's training split; one that was killed goes on, on whichever machine.

    Raises:
        ConfigError: Network or data set cannot be trained, or the settings do not go together.
        CheckpointError: The weights do not fit, or the training has diverged.
    """
    from hpe_tasks.config.stages import retraining_stages
    from hpe_tasks.quantization import best_device
    from hpe_tasks.training.curve_file import CURVES
    from hpe_tasks.training.kept_training import KeptTraining
    from hpe_tasks.training.observers import observers_for
    from hpe_tasks.training.regression import train_stages

    start = None if _starts_at_random(run) else run.result(fetch_start).file
    weights = None if start is None else run.workspace.local(start)
    stages = retraining_stages(run.config, weights)
    for name in dict.fromkeys((stages[0].train_split, run.config.dataset.evaluation_split)):
        split_of(run, name)  # Refuses a data set that has changed since it was fetched.
    root, _ = dataset_of(run)
    state, curves = scratch.path / "training.state", scratch.path / "curves"
    kept = KeptTraining(run.workspace, unfinished(run), scratch.path, state.name)
    kept.fetch()
    observers = (*observers_for(curves, os.environ), kept)
    device = "cpu" if stages[0].device == "cpu" else best_device()
    # What a worker has left behind on the devices is not shared with its retry.
    with devices_held(device, max(stage.devices for stage in stages)):
        result = train_stages(stages, root, scratch.path / "checkpoint.safetensors", observers, state)
    return TrainedCheckpoint(
        checkpoint=scratch.artifact(result.checkpoint),
        started_from=None if start is None else start.sha256,
        stages=tuple(stage.model_dump(mode="json", exclude={"initial_weights"}) for stage in stages),
        losses=result.losses,
        persons=result.persons,
        seconds=result.seconds,
        curves=scratch.artifact(curves / CURVES),
    )


def unfinished(run: Run) -> str:
    """Folder of the workspace that holds what the run's training goes on from, until its checkpoint is registered.

    Of other data, weights or code it is another training, which begins anew.
    """
    return f"{run.prefix}/{UNFINISHED}/{run.key(train)}"


def _trained_network(run: Run) -> Predict:
    """The new checkpoint, as it is measured."""
    return fp32_of(run, run.config.model, run.workspace.local(run.result(train).checkpoint))


def _checkpoint_shard(run: Run, number: int) -> StoredShard:
    """A part of the new checkpoint's measurement."""
    return shard_of(run, evaluate_checkpoint, "fp32", partial(_trained_network, run), number)


@step(
    EvaluationReport,
    "Accuracy",
    needs=(fetch_dataset, train, validate_dataset),
    settings=lambda c: [network_settings(c), measurement_settings(c)],
    tell=lambda record: record.predictions.uri,
    shown_as="fp32",
    sharding=Sharding(num_shards, _checkpoint_shard),
)
def evaluate_checkpoint(run: Run, scratch: Scratch) -> EvaluationReport:
    """Measure the new checkpoint, as the pipeline that quantizes it will."""
    return evaluate_in_shards(run, scratch, evaluate_checkpoint, "fp32", partial(_trained_network, run))


def _live_digest(run: Run) -> str:
    found, file = run.at_hand["live"] = _live_of(run)
    return digest_of([found.model_dump(mode="json"), None if file is None else sha256_file(file)])


@step(
    LiveCheckpoint,
    "Live version",
    follows=(evaluate_checkpoint,),
    found=_live_digest,
    tell=lambda record: record.version or "none",
    shown_as="live",
)
def find_live(run: Run, scratch: Scratch) -> LiveCheckpoint:
    """Find the checkpoint that the version came from which the channel serves.

    Raises:
        AccessError: The registry cannot be read; or the checkpoint is nowhere to be had any more.
        DigestError: The one in the registry is damaged.
    """
    found, file = run.at_hand["live"]
    if file is None:
        record: LiveCheckpoint = found
        return record
    kept = scratch.path / file.name
    shutil.copyfile(file, kept)
    record = found.model_copy(update={"checkpoint": scratch.artifact(kept)})
    return record


def _no_live_version(results: Results) -> str:
    live = results.find(find_live)
    return f"Channel {live.channel} of {live.name} serves no version." if live and live.version is None else ""


def _checkpoint_of(live: LiveCheckpoint) -> Artifact:
    if live.checkpoint is None:
        raise MissingInputError(
            f"Channel {live.channel} of {live.name} serves no version.", hint="Run find_live again."
        )
    return live.checkpoint


def _as_live(run: Run) -> Run:
    """The run, but with the network of the live version: everything else is as it is for the new one."""
    live = run.result(find_live)
    settings = {**live.model, "checkpoint": _checkpoint_of(live).uri, "checkpoint_sha256": None}
    model = ModelConfig.model_validate(settings)
    return replace(run, asked=run.config.model_copy(update={"model": model}))


def _live_network(as_live: Run) -> Predict:
    """The live version's checkpoint, as it is measured."""
    file = as_live.workspace.local(_checkpoint_of(as_live.result(find_live)))
    return fp32_of(as_live, as_live.config.model, file)


def _parent_shard(run: Run, number: int) -> StoredShard:
    """A part of the live checkpoint's measurement."""
    as_live = _as_live(run)
    return shard_of(as_live, evaluate_parent, "fp32", partial(_live_network, as_live), number)


@step(
    EvaluationReport,
    "Live accuracy",
    needs=(fetch_dataset, validate_dataset, find_live),
    settings=measurement_settings,
    skip=_no_live_version,
    tell=lambda record: record.predictions.uri,
    shown_as="parent",
    sharding=Sharding(num_shards, _parent_shard),
)
def evaluate_parent(run: Run, scratch: Scratch) -> EvaluationReport:
    """Measure the checkpoint that the live version came from, on the same persons in the same way."""
    as_live = _as_live(run)
    return evaluate_in_shards(as_live, scratch, evaluate_parent, "fp32", partial(_live_network, as_live))


def _comparison_settings(config: RunConfig) -> list[Any]:
    asked = config.gate.model_dump(include={"confidence", "resamples"})
    return [asked, config.training.min_gain, config.dataset.min_persons, config.seed]


@step(
    CheckpointComparison,
    "Comparison",
    needs=(train, evaluate_checkpoint, find_live),
    needs_unless_skipped=(evaluate_parent,),
    settings=_comparison_settings,
    tell=lambda record: f"{record.outcome}: {record.reason}",
    shown_as="compared_checkpoints",
)
def compare_checkpoints(run: Run, _: Scratch) -> CheckpointComparison:
    """Tell whether the new checkpoint is better than the one that the live version came from.

    Raises:
        MissingInputError: The two were not measured alike, or kept no tables of images.
    """
    from hpe_tasks.evaluation import checkpoints

    config, live, report = run.config, run.result(find_live), run.result(evaluate_checkpoint)
    if live.version is None or live.checkpoint is None:
        reason = f"channel {live.channel} of {live.name} serves no version that it could be compared with"
        return CheckpointComparison(outcome="first", reason=reason)
    parent, known = run.result(evaluate_parent), {"live_version": live.version, "parent_sha256": live.checkpoint.sha256}
    if live.checkpoint.sha256 == run.result(train).checkpoint.sha256:
        reason = f"it is, byte by byte, the checkpoint that version {live.version} came from"
        return CheckpointComparison(outcome="equal", reason=reason, **known)
    differ = checkpoints.differing_protocols(parent.fingerprint, report.fingerprint)
    tables = (_table_of(run, parent), _table_of(run, report))
    paired = checkpoints.compare_checkpoints(tables, config.gate, seed=config.seed)
    outcome, reason = checkpoints.judge(
        paired,
        report,
        live.version,
        min_gain=config.training.min_gain,
        min_persons=config.dataset.min_persons,
    )
    return CheckpointComparison(outcome=outcome, reason=reason, protocols_differ_in=differ, paired=paired, **known)


def _table_of(run: Run, report: EvaluationReport) -> ImageTable:
    from hpe_tasks.metrics.image_tables import read_table

    if report.image_table is None:
        raise MissingInputError("A measurement has kept no table of its images.", hint="Measure it again.")
    return read_table(run.workspace.local(report.image_table).read_bytes())
