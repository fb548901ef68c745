"""The steps that measure the checkpoint as it came, and compare it with the gate's floor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.model import ModelConfig
from hpe_tasks.config.run import RunConfig
from hpe_tasks.gate.floor import check_floor, refuse_below_floor
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Sharding, Step, step
from hpe_tasks.pipeline.steps.inputs import fetch_checkpoint, fetch_dataset, split_of, validate_dataset
from hpe_tasks.pipeline.steps.sharding import network_held, num_shards, shard_of
from hpe_tasks.records.diagnosis import Fp32Check
from hpe_tasks.records.evaluation import EvaluationReport, Runtime
from hpe_tasks.storage.workspace import Scratch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hpe_tasks.evaluation.shards import StoredShard
    from hpe_tasks.inference import Predict
    from hpe_tasks.metrics.image_tables import ImageTable
    from hpe_tasks.pose.codecs.arrays import Arrays

log = logging.getLogger(__name__)


def network_settings(config: RunConfig) -> dict[str, Any]:
    """The part of the configuration that decides what the network computes, wherever its file lies."""
    return config.model.model_dump(mode="json", exclude={"checkpoint", "checkpoint_sha256", "trained_on"})


def measurement_settings(config: RunConfig) -> list[Any]:
    """The part of the configuration that decides what accuracy is measured on, and how."""
    dataset = config.dataset.model_dump(include={"kind", "evaluation_split", "evaluation_images"})
    return [dataset, config.evaluation.deciding, config.seed]


def evaluate_on_split(run: Run, scratch: Scratch, runtime: Runtime, network: Callable[[], Predict]) -> EvaluationReport:
    """Measure a network, as some runtime runs it, on the evaluation split; `network` loads it."""
    with network_held(run, runtime, network) as held:
        return _evaluate(run, scratch.path / f"predictions_{runtime}.json", scratch, runtime, held())


def evaluate_in_shards(
    run: Run, scratch: Scratch, of: Step[Any], runtime: Runtime, network: Callable[[], Predict]
) -> EvaluationReport:
    """Measure a network on the evaluation split, in the parts that the run asks for; those that are stored count.

    Args:
        run: The run.
        scratch: Folder of the step.
        of: The step.
        runtime: What runs the network.
        network: Loads it; not called where all parts are stored.
    """
    if (count := num_shards(run)) == 1:
        return evaluate_on_split(run, scratch, runtime, network)
    with network_held(run, runtime, network) as held:
        shards = [shard_of(run, of, runtime, held, number) for number in range(count)]

        def predict(images: NDArray[np.float32]) -> Arrays:
            return held()(images)

        return _evaluate(run, scratch.path / f"predictions_{runtime}.json", scratch, runtime, predict, shards=shards)


def further_table(
    run: Run, scratch: Scratch, runtime: Runtime, network: Callable[[], Predict], further: tuple[int, int]
) -> ImageTable:
    """Measure a network, which `network` loads, on images beyond the measured subset, from one number to another."""
    from hpe_tasks.metrics.image_tables import read_table, table_file

    predictions = scratch.path / f"predictions_{runtime}_{further[0]}.json"
    with network_held(run, runtime, network) as held:
        _evaluate(run, predictions, scratch, runtime, held(), further)
    return read_table(table_file(predictions).read_bytes())


def _evaluate(
    run: Run,
    predictions: Path,
    scratch: Scratch,
    runtime: Runtime,
    predict: Predict,
    further: tuple[int, int] | None = None,
    shards: Sequence[StoredShard] | None = None,
) -> EvaluationReport:
    from hpe_tasks.data.fetch import fetch_boxes
    from hpe_tasks.evaluation import evaluate

    config = run.config
    return evaluate(
        split_of(run, config.dataset.evaluation_split),
        predict,
        config.model,
        config.evaluation,
        images=config.dataset.evaluation_images,
        boxes=fetch_boxes(config.dataset, run.cache, run.s3),
        runtime=runtime,
        dataset_digest=run.result(fetch_dataset).digest,
        seed=config.seed,
        predictions_file=predictions,
        artifact=scratch.artifact,
        further=further,
        shards=shards,
    )


def fp32_network(run: Run) -> Predict:
    """The checkpoint of the run, as it is measured."""
    return fp32_of(run, run.config.model, run.workspace.local(run.result(fetch_checkpoint).file))


def fp32_of(run: Run, model: ModelConfig, checkpoint: Path) -> Predict:
    """A checkpoint as a run measures it: on a CPU in onnxruntime where it may be, in torch otherwise."""
    from hpe_tasks.inference import measured_fp32
    from hpe_tasks.quantization import best_device

    return measured_fp32(model, checkpoint, best_device(), run.config.evaluation.fp32_runtime, cache=run.cache)


def _fp32_shard(run: Run, number: int) -> StoredShard:
    """A part of the checkpoint's measurement."""
    return shard_of(run, evaluate_fp32, "fp32", partial(fp32_network, run), number)


@step(
    EvaluationReport,
    "FP32 accuracy",
    needs=(fetch_dataset, fetch_checkpoint, validate_dataset),
    settings=lambda c: [network_settings(c), measurement_settings(c)],
    tell=lambda record: record.predictions.uri,
    shown_as="fp32",
    sharding=Sharding(num_shards, _fp32_shard),
)
def evaluate_fp32(run: Run, scratch: Scratch) -> EvaluationReport:
    """Measure the checkpoint as it came: the baseline that int8 is compared with."""
    return evaluate_in_shards(run, scratch, evaluate_fp32, "fp32", partial(fp32_network, run))


def _floor(config: RunConfig) -> list[Any]:
    """The part of the configuration that decides what is asked of the checkpoint before quantization."""
    from hpe_tasks.gate.accuracy import accuracy_limits

    metric = config.dataset.gate_metric
    return [metric, accuracy_limits(config.gate, metric).minimum]


@step(
    Fp32Check,
    "FP32 floor",
    needs=(fetch_dataset, fetch_checkpoint, evaluate_fp32),
    settings=_floor,
    accept=refuse_below_floor,
    refused=lambda record: not record.passed,
    tell=lambda record: record.reason,
    shown_as="fp32_check",
)
def check_fp32(run: Run, _: Scratch) -> Fp32Check:
    """Compare the checkpoint's accuracy with the gate's floor, and find out why it is below.

    Raises:
        BelowFloorError: It is below; says what mends it, where that was found.
    """
    from hpe_tasks.diagnosis import diagnose
    from hpe_tasks.gate.accuracy import METRICS
    from hpe_tasks.inference import fp32_predictor
    from hpe_tasks.quantization import best_device

    config = run.config
    check = check_floor(config.gate, run.result(evaluate_fp32), config.dataset.gate_metric)
    if check.passed or check.observed is None:
        if check.passed and check.observed is not None and check.observed < check.limit:
            log.warning("%s.", check.reason)
        return check
    checkpoint = run.workspace.local(run.result(fetch_checkpoint).file)
    with network_held(run, "fp32", lambda: fp32_predictor(config.model, checkpoint, best_device())) as network:
        diagnosis = diagnose(
            split_of(run, config.dataset.evaluation_split),
            network(),
            config.model,
            METRICS[check.metric],
            batch_size=config.evaluation.batch_size,
            seed=config.seed,
        )
    for tried in diagnosis.tried:
        log.info("%s when %s", METRICS[check.metric].text(tried.accuracy), tried.when)
    return check.model_copy(update={"diagnosis": diagnosis})
