"""Measurements in parts: each is stored by what it was made from, so that whoever comes next takes it as it is.

A part that is lost is made again alone, by its task or by the step that puts the parts together; of one that two
workers have made at the same time the first counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from hpe_tasks.config.environment import shard_tasks
from hpe_tasks.pipeline.runs import Run
from hpe_tasks.pipeline.step import Step
from hpe_tasks.pipeline.steps.inputs import split_of, validate_dataset
from hpe_tasks.records.evaluation import Runtime
from hpe_tasks.records.shards import PredictedShard
from hpe_tasks.storage.devices import device_held
from hpe_tasks.storage.files import digest_of
from hpe_tasks.storage.workspace import Scratch

if TYPE_CHECKING:
    from hpe_tasks.evaluation.shards import StoredShard
    from hpe_tasks.inference import Predict

POSES = "poses.parquet"


_PERSONS = 250
"""Of a part, where a run leaves the number of parts open: long enough that what a part costs by itself is little."""


def num_shards(run: Run) -> int:
    """How many parts a run measures its networks in.

    Raises:
        MissingInputError: The run leaves that to the size of its data set, which nobody has looked at yet.
    """
    config = run.config
    if config.evaluation.shards:
        return config.evaluation.shards
    counts = run.result(validate_dataset).splits
    persons = sum(split.persons for split in counts if split.split == config.dataset.evaluation_split)
    return max(1, min(shard_tasks(), -(-persons // _PERSONS)))


def shard_of(run: Run, step: Step[Any], runtime: Runtime, network: Callable[[], Predict], number: int) -> StoredShard:
    """One part of a measurement, as it is stored or made now.

    Args:
        run: Whose inputs and settings decide it.
        step: That puts the parts together.
        runtime: What runs the network.
        network: Loads it; not called where the part is stored. Whoever has it has its device alone.
        number: Which part.
    """
    from hpe_tasks.evaluation.shards import StoredShard

    count = num_shards(run)
    key = digest_of({"of": run.key(step), "runtime": runtime, "part": [number, count]})[:32]

    def make(scratch: Scratch) -> PredictedShard:
        with network_held(run, runtime, network) as held:
            return _predict(run, scratch, runtime, held(), number)

    record, _ = run.workspace.once(f"{step.name}_shards", key, PredictedShard, make)
    return StoredShard(record, run.workspace.local(record.poses))


@contextmanager
def network_held(run: Run, runtime: Runtime, network: Callable[[], Predict]) -> Iterator[Callable[[], Predict]]:
    """Give what loads a network once, when it is first asked for, with its device held from then to the block's end.

    An orphan's network is not beside its retry's on one device.

    Args:
        run: Says whether it is a file, which onnxruntime runs on the processor.
        runtime: What runs it.
        network: Loads it.
    """
    from hpe_tasks.quantization import best_device

    on_cpu = runtime == "onnxruntime" or (runtime == "fp32" and run.config.model.network.from_file)
    with ExitStack() as held:

        @cache
        def load() -> Predict:
            held.enter_context(device_held("cpu" if on_cpu else best_device()))
            return network()

        yield load


def _predict(run: Run, scratch: Scratch, runtime: Runtime, predict: Predict, number: int) -> PredictedShard:
    from hpe_tasks.data.fetch import fetch_boxes
    from hpe_tasks.evaluation import predict_shard
    from hpe_tasks.evaluation.shards import Shard

    config = run.config
    return predict_shard(
        split_of(run, config.dataset.evaluation_split),
        predict,
        config.model,
        config.evaluation,
        images=config.dataset.evaluation_images,
        boxes=fetch_boxes(config.dataset, run.cache, run.s3),
        runtime=runtime,
        seed=config.seed,
        shard=Shard(number, num_shards(run)),
        file=scratch.path / POSES,
        artifact=scratch.artifact,
    )
