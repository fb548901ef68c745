"""Measures what several workers gain when a measurement is made in parts, what a part costs, and what it asks of S3.

    python benchmarks/shards.py [--parts 8] [--workers 1 2] [--preset sample] [--network pose_resnet_50]
        [--set KEY=VALUE] [--rounds 3] [--celery]

Workers are processes with one thread and a core each, each with a cache of its own; they share nothing but a workspace
on the embedded S3 server. With `--celery` they are Celery's (`-c 1`, one task at a time), which take the parts from a
queue in Redis as Airflow's CeleryExecutor has them do; else they have them in turn. Before the time counts, libraries
are loaded, and the checkpoint's float32 file is made and compared, which takes the same whatever the number of parts.
With `--network` they measure one of that architecture with random weights on the preset's data, for as long as one of
published size takes. In each round, in turns:

* whole: one worker measures all in one part, with `evaluate_fp32`;
* N workers: the parts are made in turn by the workers, then `evaluate_fp32` puts them together in one more process.

The gain is the time of one worker by that of N, over the same parts; what a part costs is the time of one worker with
all parts, less that of the whole, by the number of parts. Figures are medians of the rounds. Requests to S3 are those
that the clients really sent, by their names, with retries. The files of all ways are compared: they must be the same.

    python benchmarks/shards.py --batches

shows sixteen drawn images to the sample's network, in one batch and in others, and tells how far apart its outputs are:
why a part is made of whole batches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET = "shards"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MKL_NUM_THREADS": "1"}


def counting_client(counts: Counter[str]) -> Any:
    """An S3 client that counts what it sends."""
    from hpe_tasks.storage.s3 import make_client

    client = make_client()

    def sent(operation_name: str, **_: Any) -> None:
        counts[operation_name] += 1

    client.meta.events.register("request-created.s3", sent)
    return client


def open_here(task: dict[str, Any], counts: Counter[str], parts: int) -> Any:
    from hpe_tasks.config.loading import load_config
    from hpe_tasks.pipeline.runs import open_run

    config = load_config(task["preset"], overrides={**task["settings"], "evaluation.shards": parts})
    cache, client = Path(task["cache"]), counting_client(counts)
    return open_run(config, workspace=task["workspace"], cache=cache, name="bench", s3=lambda: client)


def make_ready(task: dict[str, Any]) -> None:
    """What a worker has done long ago: loaded libraries, fetched the data, made the float32 file of this checkpoint."""
    from hpe_tasks.pipeline import steps

    if task["core"] is not None:
        os.sched_setaffinity(0, {task["core"]})
    import pyarrow.parquet
    import torch

    import hpe_tasks.evaluation
    import hpe_tasks.models.checkpoint
    import hpe_tasks.quantization
    from hpe_tasks.pipeline.steps.measuring import fp32_network

    torch.set_num_threads(1)
    torch.zeros(1) + 1
    assert all((pyarrow.parquet, hpe_tasks.evaluation, hpe_tasks.models, hpe_tasks.quantization))
    if task["prepare"]:
        return
    ready = open_here(task, Counter(), task["parts"])
    steps.fetch_dataset(ready)
    began = time.monotonic()
    fp32_network(ready)
    print(f"the network in float32 was there after {time.monotonic() - began:.1f} s", file=sys.stderr)


def share(task: dict[str, Any]) -> dict[str, Any]:
    """Make the parts of a task, and put all together where it says so; what that took and came to."""
    from hpe_tasks.pipeline import steps

    if task["prepare"]:
        run = open_here(task, Counter(), task["parts"])
        for step in (steps.fetch_dataset, steps.fetch_checkpoint, steps.validate_dataset):
            step(run)
        return {}
    counts: Counter[str] = Counter()
    began, processor = time.monotonic(), time.process_time()
    requests = []
    told: dict[str, Any] = {}
    for number in task["numbers"]:
        before = counts.copy()
        steps.evaluate_fp32.make_shard(open_here(task, counts, task["parts"]), number)
        requests.append(counts - before)
    if task["whole"]:
        report = steps.evaluate_fp32(open_here(task, counts, task["parts"]))
        requests.append(counts)
        files = (report.predictions, report.image_table, report.crop_joints)
        told["files"] = [file.sha256 for file in files if file is not None]
        told["ap"] = report.accuracy
        told["persons"] = report.fingerprint.num_persons
    seconds, processor_s = time.monotonic() - began, time.process_time() - processor
    return {**told, "seconds": seconds, "processor_s": processor_s, "requests": requests}


def work(task: dict[str, Any]) -> None:
    """A worker: ready, told to begin, does its share, tells what it took."""
    make_ready(task)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(share(task)), flush=True)


@contextmanager
def worker(task: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, __file__, "--worker", json.dumps(task)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}
    )
    try:
        yield process
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        process.wait()


def answer(process: subprocess.Popen[str]) -> Any:
    line = process.stdout.readline().strip()  # type: ignore[union-attr]
    if not line:
        raise SystemExit("a worker has failed")
    return line if line == "ready" else json.loads(line)


def together(tasks: list[dict[str, Any]]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds from the word to begin until all have ended, and what each tells."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        processes = [stack.enter_context(worker(task)) for task in tasks]
        for process in processes:
            answer(process)
        began = time.monotonic()
        for process in processes:
            process.stdin.write("begin\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        told = [answer(process) for process in processes]
        return time.monotonic() - began, told


class Bench:
    """One machine of the past: a workspace of its own for each way, and caches that are warm."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.arguments, self.folder, self.number = arguments, folder, 0
        self.cores = sorted(os.sched_getaffinity(0))

    def task(self, workspace: str, core: int, **changes: Any) -> dict[str, Any]:
        settings = dict(pair.split("=", 1) for pair in self.arguments.set)
        cache = str(self.folder / f"cache {core}")
        kept = {"prepare": False, "numbers": [], "whole": False, "parts": self.arguments.parts}
        place = {"workspace": workspace, "cache": cache, "core": self.cores[core % len(self.cores)]}
        return {"preset": self.arguments.preset, "settings": settings, **kept, **place, **changes}

    def prepared(self, parts: int) -> str:
        """A workspace with a run in which nothing is measured yet."""
        self.number += 1
        workspace = f"s3://{BUCKET}/{self.number}"
        together([self.task(workspace, 0, prepare=True, parts=parts)])
        return workspace

    def whole(self) -> dict[str, Any]:
        seconds, [told] = together([self.task(self.prepared(1), 0, whole=True, parts=1)])
        return {**told, "seconds": seconds}

    def in_parts(self, workers: int) -> dict[str, Any]:
        workspace = self.prepared(self.arguments.parts)
        if self.arguments.celery:
            from celery_workers import by_celery

            lanes = [self.task(workspace, lane) for lane in range(workers)]
            seconds, told = by_celery(lanes, self.arguments.parts, ONE_THREAD)
        else:
            numbers = [list(range(lane, self.arguments.parts, workers)) for lane in range(workers)]
            seconds, told = together([self.task(workspace, lane, numbers=numbers[lane]) for lane in range(workers)])
        last, [result] = together([self.task(workspace, 0, whole=True)])
        part = max((one for each in told for one in each["requests"]), key=lambda one: sum(one.values()))
        processor_s = sum(each["processor_s"] for each in told)
        return {**result, "seconds": seconds, "processor_s": processor_s, "last": last, "part": part}


def tell_batches() -> None:
    """How far the outputs for the same images are apart in other batches."""
    import numpy as np
    import torch

    from hpe_tasks.config.loading import load_config
    from hpe_tasks.inference import fp32_predictor, onnx_predictor
    from hpe_tasks.models.checkpoint import sample_checkpoint
    from hpe_tasks.models.fp32_onnx import export_fp32

    config, checkpoint = load_config("sample", overrides={}).model, sample_checkpoint()
    width, height = config.input_size
    images = np.random.default_rng(0).standard_normal((16, 3, height, width)).astype(np.float32)
    other_order = np.random.default_rng(1).permutation(16)
    with tempfile.TemporaryDirectory() as folder:
        file = export_fp32(config, checkpoint, Path(folder) / "fp32.onnx")
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runtimes = {
                "torch": fp32_predictor(config, checkpoint, "cpu"),
                "onnxruntime": onnx_predictor(file, config, threads=threads),
            }
            for name, predict in runtimes.items():
                whole = predict(images)["heatmaps"]
                apart = {f"{n}": np.abs(predict(images[:n])["heatmaps"] - whole[:n]).max() for n in (15, 7, 1)}
                apart["in another order"] = np.abs(predict(images[other_order])["heatmaps"] - whole[other_order]).max()
                print(f"{name}, {threads} threads:", ", ".join(f"{key} {value:.1e}" for key, value in apart.items()))


def random_weights(architecture: str, file: Path) -> list[str]:
    """Write weights of a network as torch begins with them; the settings of a run that measures it."""
    import torch
    from safetensors.torch import save_file

    from hpe_tasks.config.model import ModelConfig
    from hpe_tasks.models import build_model

    torch.manual_seed(0)
    save_file(build_model(ModelConfig(architecture=architecture, checkpoint=str(file))).state_dict(), file)
    return [f"model.architecture={architecture}", f"model.checkpoint={file}"]


def text_of(requests: dict[str, int]) -> str:
    return f"{sum(requests.values())} ({', '.join(f'{name} {number}' for name, number in sorted(requests.items()))})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", default="sample")
    parser.add_argument("--network", help="an architecture, of which random weights are measured")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--server-python", type=Path, default=Path(".venv-object-store/bin/python"))
    parser.add_argument("--celery", action="store_true", help="workers are Celery's, with a Redis of their own")
    parser.add_argument("--batches", action="store_true", help="only compare batches")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    if arguments.batches:
        tell_batches()
        return
    from hpe_tasks.contract.cpu import processor_name
    from hpe_tasks.local.object_store import ObjectStore

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if arguments.network:
            arguments.set += random_weights(arguments.network, root / "random.safetensors")
        with ObjectStore(root / "s3", arguments.server_python, bucket=BUCKET) as server:
            os.environ.update(server.environment)
            bench = Bench(arguments, root)
            rounds = []
            for number in range(arguments.rounds):
                ways = {0: bench.whole(), **{workers: bench.in_parts(workers) for workers in arguments.workers}}
                rounds.append(ways)
                times = ", ".join(f"{workers or 'whole'}: {way['seconds']:.1f} s" for workers, way in ways.items())
                print(f"round {number + 1}: {times}", file=sys.stderr)
    tell(arguments, rounds, processor_name())


def tell(arguments: argparse.Namespace, rounds: list[dict[int, dict[str, Any]]], processor: str) -> None:
    files = {tuple(way["files"]) for ways in rounds for way in ways.values()}
    if len(files) != 1:
        raise SystemExit("the ways have come to different files")
    first = rounds[0]
    print(
        f"{arguments.network or arguments.preset}, {first[0]['persons']} persons, {arguments.parts} parts, {processor}"
    )
    print(f"{'':12}{'seconds':>9}{'processor s':>13}{'put together':>14}")
    for workers in first:
        ways = [one[workers] for one in rounds]
        name = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "whole"
        columns = [statistics.median(way[key] for way in ways) for key in ("seconds", "processor_s")]
        last = f"{statistics.median(way['last'] for way in ways):.2f}" if workers else ""
        print(f"{name:12}{columns[0]:9.1f}{columns[1]:13.1f}{last:>14}")
    if 1 in first:
        costs = [(one[1]["seconds"] - one[0]["seconds"]) / arguments.parts for one in rounds]
        print(f"a part costs {statistics.median(costs):.2f} s more than its share of the whole")
        for workers in arguments.workers[1:]:
            gains = [one[1]["seconds"] / one[workers]["seconds"] for one in rounds]
            print(f"{workers} workers are {statistics.median(gains):.2f} times as fast as one")
        print(f"S3 requests of a part: {text_of(first[1]['part'])}")
        print(f"S3 requests of putting {arguments.parts} together: {text_of(first[1]['requests'][-1])}")
    print(f"S3 requests of the whole: {text_of(first[0]['requests'][-1])}")


if __name__ == "__main__":
    main()
