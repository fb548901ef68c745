"""Tells where the pipeline's limits are on 1, 10 and 100 GPUs, by playing a cluster from what its parts cost.

    python benchmarks/scaling.py [--set NAME=VALUE]... [--docs docs/scaling.md] [--picture docs/images/scaling.png]
    python benchmarks/scaling.py --measure costs.json [--images 40504] [--resamples 10000]
    python benchmarks/scaling.py --costs costs.json

Costs are those of `scaling_costs.json`, which says of each whether it was measured, published or assumed; --set changes
one, as to the speed of your GPUs. --measure writes a file of costs with what this machine can measure measured anew:
figures and resampling (processor time, drawn persons), and the S3 requests of a step, counted on the embedded server.
For each size of cluster the number of shards is the quickest of 1 to 16 for each GPU; then each cost and setting is
made twice as good in turn, and the three that win most are named.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from marked_docs import write_docs
from scaling_model import Costs, Outcome, Work, best_shards, simulate

COSTS = Path(__file__).with_name("scaling_costs.json")
GPUS = (1, 10, 100)
DATA = {"COCO val2014, 40,504 images": 40_504, "ten million images": 10_000_000}

MOVES = {
    "gpu_fp32_persons_per_s": (2, "a faster GPU in FP32"),
    "gpu_quantsim_persons_per_s": (2, "a faster QuantSim"),
    "cores_per_gpu": (2, "twice the cores for each GPU"),
    "figures_s_per_image": (0.5, "figures in half the time"),
    "resamples": (0.5, "half of `gate.resamples`"),
    "resampling_cores": (2, "twice the cores for `compare_accuracy`"),
    "bytes_per_image": (0.5, "images of half the size"),
    "calibration_images": (0.5, "half of `recipe.calibration_images`"),
    "calibration_fixed_s": (0.5, "quantization in half the time"),
    "rest_s": (0.5, "everything that is done once, in half the time"),
    "s3_requests_per_second": (2, "a second S3 prefix"),
    "s3_latency_s": (0.5, "S3 answering twice as fast"),
    "worker_bytes_per_s": (2, "twice the network of each worker"),
    "source_bytes_per_s": (2, "a source of data with twice the bandwidth"),
    "tasks_per_second": (2, "a second scheduler"),
    "task_start_s": (0.5, "tasks that start in half the time"),
}
"""What each is multiplied by to be twice as good, and what that is in words."""


def read_costs(file: Path, changes: Sequence[str] = ()) -> tuple[Costs, dict[str, Any]]:
    """The costs, and what is said of them."""
    said = json.loads(file.read_text(encoding="utf-8"))
    for change in changes:
        name, _, value = change.partition("=")
        if name not in said:
            raise SystemExit(f"There is no cost {name!r}, only {', '.join(said)}.")
        said[name] |= {"value": float(value), "kind": "given", "source": "--set"}
    wrong = [name for name, one in said.items() if not one["value"] > 0]
    if wrong:
        raise SystemExit(f"{', '.join(wrong)}: costs are above zero.")
    return Costs(**{name: one["value"] for name, one in said.items()}), said


def runs(costs: Costs) -> Iterator[tuple[str, Work, Outcome]]:
    """Every data set on every size of cluster."""
    for data, images in DATA.items():
        for gpus in GPUS:
            work = best_shards(costs, images, gpus)
            yield data, work, simulate(costs, work)


def gains(costs: Costs, work: Work) -> list[tuple[float, str]]:
    """By how many seconds each change shortens a run, most first."""
    before = simulate(costs, work).total_s
    found = [
        (before - simulate(costs.times(name, factor), work).total_s, words) for name, (factor, words) in MOVES.items()
    ]
    return sorted(found, reverse=True)


def table(costs: Costs) -> str:
    """What runs take, step by step, and what shortens them."""
    steps = list(simulate(costs, Work(1, 1, 1)).seconds)
    lines = []
    for data in DATA:
        rows = [(work, outcome) for one, work, outcome in runs(costs) if one == data]
        lines += [f"**{data}**", "", f"| | {' | '.join(_gpus(work) for work, _ in rows)} |", f"|{'---|' * 4}"]
        lines += [
            f"| {step if step == 'the rest' else f'`{step}`' if '_' in step or step == 'quantize' else step} | "
            f"{' | '.join(duration(outcome.seconds[step]) for _, outcome in rows)} |"
            for step in steps
        ]
        figures = {
            "**in all**": [f"**{duration(outcome.total_s)}**" for _, outcome in rows],
            "GPUs compute": [f"{outcome.gpu_busy_s / outcome.total_s / work.gpus:.1%}" for work, outcome in rows],
            "shards": [f"{work.shards:,}" for work, _ in rows],
            "S3 requests/s while evaluating": [f"{outcome.most_requests_per_s:.1f}" for _, outcome in rows],
            "fetched by all workers": [size(outcome.fetched_bytes) for _, outcome in rows],
            "memory of the figures": [size(outcome.reduce_bytes) for _, outcome in rows],
        }
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in figures.items()]
        lines += ["", "What shortens it most, if it were twice as good:", ""]
        for work, outcome in rows:
            best = [f"{words} ({gain / outcome.total_s:.0%})" for gain, words in gains(costs, work)[:3]]
            lines.append(f"- {_gpus(work)}: {'; '.join(best)}.")
        lines.append("")
    return "\n".join(lines)


def fetching_table(costs: Costs) -> str:
    """The ways of coming by the images, on the most GPUs."""
    often = replace(costs, requests_per_second_of_a_worker=1000)
    ways: dict[str, tuple[Costs, Literal["whole", "each"]]] = {
        "the data set whole, by each worker": (costs, "whole"),
        "`dataset.images_by_url`": (costs, "each"),
        "… with `dataset.requests_per_second=1000`": (often, "each"),
    }
    lines = [
        f"| {GPUS[-1]} GPUs | {' | '.join(DATA)} | fetched by all workers |",
        f"|{'---|' * (len(DATA) + 2)}",
    ]
    for words, (asked, fetch) in ways.items():
        outcomes = [simulate(asked, best_shards(asked, images, GPUS[-1], fetch)) for images in DATA.values()]
        cells = [duration(outcome.total_s) for outcome in outcomes]
        fetched = " and ".join(size(outcome.fetched_bytes) for outcome in outcomes)
        lines.append(f"| {words} | {' | '.join(cells)} | {fetched} |")
    return "\n".join(lines)


def crowding_table(costs: Costs) -> str:
    """How the evaluation of FP32 takes longer when its shards are made too many."""
    images, gpus = next(iter(DATA.values())), GPUS[-1]
    lines = ["| shards | `evaluate_fp32` | S3 requests/s |", "|---|---|---|"]
    for shards in (100, 400, 1600, 6400, 40_504):
        outcome = simulate(costs, Work(images, gpus, shards))
        rate = shards * costs.requests_per_task / outcome.seconds["evaluate_fp32"]
        lines.append(f"| {shards:,} | {duration(outcome.seconds['evaluate_fp32'])} | {rate:.0f} |")
    return "\n".join(lines)


def inputs_table(said: dict[str, Any]) -> str:
    """What everything was reckoned from."""
    lines = ["| cost | value | | is | from |", f"|{'---|' * 5}"]
    lines += [
        f"| `{name}` | {one['value']:,} | {one['kind']} | {one['means']} | {one['source']} |"
        for name, one in said.items()
    ]
    return "\n".join(lines)


def _gpus(work: Work) -> str:
    return f"{work.gpus} GPU{'s' if work.gpus > 1 else ''}"


def duration(seconds: float) -> str:
    """As 45 s, 3.2 min, 7.5 h or 3.1 days."""
    for unit, length, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72)):
        if seconds < most * length:
            return f"{seconds / length:.1f} {unit}" if unit != "s" else f"{seconds:.0f} s"
    return f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """Bytes as MB, GB or TB."""
    unit, power = next(((unit, power) for unit, power in (("TB", 12), ("GB", 9)) if count >= 10**power), ("MB", 6))
    return f"{count / 10**power:.1f} {unit}"


def draw(costs: Costs, file: Path) -> None:
    """A bar for each run, of its steps."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(DATA), figsize=(10, 3.8), layout="constrained")
    for panel, (data, images) in zip(panels, DATA.items(), strict=True):
        unit, length = ("minutes", 60) if images < 1_000_000 else ("hours", 3600)
        rows = [(work, outcome) for one, work, outcome in runs(costs) if one == data]
        below = [0.0] * len(rows)
        for step in rows[0][1].seconds:
            heights = [outcome.seconds[step] / length for _, outcome in rows]
            panel.bar([_gpus(work) for work, _ in rows], heights, bottom=below, label=step, width=0.6)
            below = [low + height for low, height in zip(below, heights, strict=True)]
        panel.set(title=data, ylabel=unit)
    panels[-1].legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def measure(file: Path, images: int, resamples: int) -> None:
    """Write the costs with those that this machine can measure."""
    import numpy as np
    from bootstrap import aside
    from bootstrap import table as matched
    from coco_eval import drawn_persons, drawn_results, stats_by_product, whole_breakdown_by_product

    from hpe_tasks.contract.cpu import processor_name
    from hpe_tasks.metrics.bootstrap import paired_differences

    said = json.loads(COSTS.read_text(encoding="utf-8"))
    rng = np.random.default_rng(0)
    persons, image_ids = drawn_persons(rng, images)
    results = drawn_results(rng, persons, image_ids, round(2.5 * images))
    began = time.process_time()
    stats_by_product(persons, results)
    whole_breakdown_by_product(persons, results)
    figures = time.process_time() - began
    some = min(images, 5000)
    persons, image_ids = drawn_persons(rng, some)
    before = drawn_results(rng, persons, image_ids, 2 * some)
    tables = [matched(persons, rows, image_ids, parts=True) for rows in (before, aside(rng, before))]
    began = time.process_time()
    paired_differences(*tables, resamples=resamples, seed=0)
    resampling = (time.process_time() - began) * 10_000 / resamples
    found = {
        "figures_s_per_image": (figures / images, f"{images:,} images"),
        "resampling_s_per_image": (resampling / some, f"{some:,} images, {resamples:,} resamples"),
        "requests_per_task": (requests_of_a_step(), "`fetch_checkpoint` of the preset `sample`"),
    }
    for name, (value, of) in found.items():
        said[name] |= {"value": float(f"{value:.3g}"), "source": f"{of}, {processor_name()}"}
        print(f"{name}: {said[name]['value']} ({said[name]['source']})")
    file.write_text(json.dumps(said, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def requests_of_a_step() -> int:
    """S3 requests of a step that stores a file, with a server that has never seen it."""
    import os

    from hpe_tasks.config.loading import load_config
    from hpe_tasks.local.object_store import ObjectStore
    from hpe_tasks.pipeline import steps
    from hpe_tasks.pipeline.runs import open_run
    from hpe_tasks.storage.s3_requests import counting_requests

    root = Path(__file__).resolve().parent.parent
    python = Path(os.environ.get("HPE_OBJECT_STORE_PYTHON") or root / ".venv-object-store/bin/python")
    with tempfile.TemporaryDirectory() as folder, ObjectStore(Path(folder) / "store", python) as server:
        client = server.client()
        client.create_bucket(Bucket="scaling")
        cache, config = Path(folder) / "cache", load_config("sample")
        run = open_run(config, workspace="s3://scaling/work", cache=cache, name="scaling", s3=lambda: client)
        with counting_requests() as requests:
            steps.fetch_checkpoint(run)
    return requests.total


def main(asked: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, default=COSTS)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a cost of your machines")
    parser.add_argument("--docs", type=Path, help="write the tables between the marks of this file")
    parser.add_argument("--picture", type=Path, help="draw the steps there (.png or .svg)")
    parser.add_argument("--measure", type=Path, metavar="FILE", help="measure what can be measured here")
    parser.add_argument("--images", type=int, default=40_504, help="with --measure")
    parser.add_argument("--resamples", type=int, default=10_000, help="with --measure")
    options = parser.parse_args(asked)
    if options.measure:
        measure(options.measure, options.images, options.resamples)
        return
    costs, said = read_costs(options.costs, options.set)
    told = (
        f"## Time by step\n\n{table(costs)}\n## Ways to the images\n\n{fetching_table(costs)}\n\n"
        f"## Too many shards\n\nCOCO val2014 on {GPUS[-1]} GPUs:\n\n{crowding_table(costs)}\n"
    )
    if options.docs:
        write_docs(options.docs, "scaling.py", f"{told}\n## What it was reckoned from\n\n{inputs_table(said)}")
    else:
        sys.stdout.write(f"{told}\n")
    if options.picture:
        draw(costs, options.picture)


if __name__ == "__main__":
    main()
