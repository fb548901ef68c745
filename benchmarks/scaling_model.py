"""A cluster that takes a checkpoint through the pipeline, played from what its parts cost; `scaling.py` asks it.

Tasks are started one after the other by a scheduler, wait for a worker with a GPU, start, fetch what they lack, work,
and send their requests to one S3 prefix, which takes so many in a second. Figures are computed once, by one task. What
is measured, published or assumed is said in `scaling_costs.json`.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field, replace
from typing import Literal


@dataclass(frozen=True)
class Costs:
    """What the parts cost; names and units as in `scaling_costs.json`."""

    gpu_fp32_persons_per_s: float
    gpu_quantsim_persons_per_s: float
    cores_per_gpu: float
    read_core_s_per_image: float
    file_core_s_per_person: float
    validate_core_s_per_image: float
    figures_s_per_image: float
    figures_bytes_per_image: float
    resampling_s_per_image: float
    resampling_cores: float
    prediction_bytes_per_person: float
    requests_per_task: float
    calibration_passes: float
    calibration_fixed_s: float
    calibration_images: float
    resamples: float
    requests_per_second_of_a_worker: float
    rest_s: float
    persons_per_image: float
    bytes_per_image: float
    calibration_split_images: float
    s3_requests_per_second: float
    s3_latency_s: float
    worker_bytes_per_s: float
    source_bytes_per_s: float
    tasks_per_second: float
    task_start_s: float
    shard_spread: float

    def times(self, name: str, factor: float) -> Costs:
        """The same with one of them so many times as large."""
        return replace(self, **{name: getattr(self, name) * factor})


@dataclass(frozen=True)
class Work:
    """What is asked.

    Attributes:
        images: Of the evaluation split.
        gpus: Workers, with one GPU each.
        shards: Tasks that an evaluation is mapped over.
        fetch: How a worker comes to its images: the data set `whole`, once; or `each` of a shard by itself, as with
            `dataset.images_by_url`.
    """

    images: int
    gpus: int
    shards: int
    fetch: Literal["whole", "each"] = "whole"


@dataclass
class Outcome:
    """How long each step takes, in order, and what it asks of the others.

    Attributes:
        seconds: By step.
        gpu_busy_s: Time in which GPUs compute, of all of them together.
        most_requests_per_s: S3 requests of the busiest evaluation, by its duration.
        fetched_bytes: What all workers together have fetched.
        reduce_bytes: Memory of the task that computes the figures.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    gpu_busy_s: float = 0.0
    most_requests_per_s: float = 0.0
    fetched_bytes: float = 0.0
    reduce_bytes: float = 0.0

    @property
    def total_s(self) -> float:
        """From the first task to the last."""
        return sum(self.seconds.values())


def simulate(costs: Costs, work: Work) -> Outcome:
    """Play one run, with empty caches."""
    cluster, outcome = _Cluster(costs, work), Outcome()
    all_images = work.images + costs.calibration_split_images
    persons = work.images * costs.persons_per_image

    decoding = all_images * costs.validate_core_s_per_image / costs.cores_per_gpu
    outcome.seconds["validate_dataset"] = costs.task_start_s + cluster.fetch(all_images, at_once=1) + decoding
    fp32 = max(persons / costs.gpu_fp32_persons_per_s, _reading(costs, work.images))
    _evaluate(cluster, outcome, "evaluate_fp32", fp32, persons / costs.gpu_fp32_persons_per_s)
    outcome.seconds["quantize"] = (
        costs.task_start_s
        + costs.calibration_fixed_s
        + (costs.calibration_images * costs.calibration_passes / costs.gpu_quantsim_persons_per_s)
    )
    # QuantSim on the GPU, then the file on the cores; reading goes on beside the first, and again beside the second.
    quantsim = max(persons / costs.gpu_quantsim_persons_per_s, _reading(costs, work.images))
    file = (persons * costs.file_core_s_per_person) / costs.cores_per_gpu + _reading(costs, work.images)
    _evaluate(cluster, outcome, "evaluate_quantized", quantsim + file, persons / costs.gpu_quantsim_persons_per_s)
    outcome.seconds["figures"] = 3 * work.images * costs.figures_s_per_image
    resampling = work.images * costs.resampling_s_per_image * costs.resamples / 10_000
    outcome.seconds["compare_accuracy"] = resampling / costs.resampling_cores
    outcome.seconds["the rest"] = costs.rest_s
    outcome.fetched_bytes = cluster.fetched_bytes
    outcome.reduce_bytes = work.images * costs.figures_bytes_per_image + persons * costs.prediction_bytes_per_person
    return outcome


def _reading(costs: Costs, images: float) -> float:
    return images * costs.read_core_s_per_image / costs.cores_per_gpu


def _evaluate(cluster: _Cluster, outcome: Outcome, step: str, seconds: float, on_gpu: float) -> None:
    taken, requests = cluster.run_shards(seconds)
    outcome.seconds[step] = taken
    outcome.gpu_busy_s += on_gpu
    outcome.most_requests_per_s = max(outcome.most_requests_per_s, requests / taken)


class _Cluster:
    """Workers with what they have fetched, a scheduler, and an S3 prefix."""

    def __init__(self, costs: Costs, work: Work) -> None:
        self.costs, self.work = costs, work
        # Who has validated the data set has all of it.
        self.has_all = {0}
        self.shards: set[tuple[int, int]] = set()
        self.fetched_bytes = 0.0
        self._random = random.Random(0)

    def fetch(self, images: float, at_once: int) -> float:
        """Seconds until a worker has so many images, with so many workers that fetch at once."""
        size = images * self.costs.bytes_per_image
        self.fetched_bytes += size
        seconds = size / min(self.costs.worker_bytes_per_s, self.costs.source_bytes_per_s / at_once)
        if self.work.fetch == "each":
            seconds = max(seconds, images / self.costs.requests_per_second_of_a_worker)
        return seconds

    def _fetch_for(self, worker: int, shard: int, at_once: int) -> float:
        if worker in self.has_all or (worker, shard) in self.shards:
            return 0.0
        if self.work.fetch == "whole":
            self.has_all.add(worker)
            return self.fetch(self.work.images + self.costs.calibration_split_images, at_once)
        self.shards.add((worker, shard))
        return self.fetch(self.work.images / self.work.shards, at_once)

    def run_shards(self, seconds: float) -> tuple[float, float]:
        """Map a step over the shards; seconds of one worker for all of it are given, those of the step come back.

        Returns:
            How long it takes, and how many S3 requests it sends.
        """
        costs, work = self.costs, self.work
        at_once = min(work.gpus, work.shards)
        weights = [self._random.lognormvariate(0, costs.shard_spread) for _ in range(work.shards)]
        scale = seconds / sum(weights)
        waiting = iter(enumerate(weights))
        at_work: list[tuple[float, int]] = []

        def take(worker: int, now: float) -> None:
            shard, weight = next(waiting, (-1, 0.0))
            if shard >= 0:
                begin = max(now, shard / costs.tasks_per_second) + costs.task_start_s
                ready = begin + self._fetch_for(worker, shard, at_once)
                heapq.heappush(at_work, (ready + weight * scale, worker))

        for worker in range(work.gpus):
            take(worker, 0.0)
        prefix_free, end = 0.0, 0.0
        while at_work:
            worked, worker = heapq.heappop(at_work)
            prefix_free = max(prefix_free, worked) + costs.requests_per_task / costs.s3_requests_per_second
            done = max(prefix_free, worked + costs.requests_per_task * costs.s3_latency_s)
            end = max(end, done)
            take(worker, done)
        return end, costs.requests_per_task * work.shards


def best_shards(costs: Costs, images: int, gpus: int, fetch: Literal["whole", "each"] = "whole") -> Work:
    """Work in as many shards as are quickest, of one to sixteen for each GPU."""
    tried = [Work(images, gpus, gpus * times, fetch) for times in (1, 2, 4, 8, 16)]
    return min(tried, key=lambda work: (simulate(costs, work).total_s, work.shards))
