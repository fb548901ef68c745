"""The played cluster, where the answer can be told by hand; and the page, which says what the costs come to."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import scaling
from marked_docs import marks
from scaling_model import Costs, Work, best_shards, simulate

COSTS, SAID = scaling.read_costs(scaling.COSTS)
EVEN = replace(COSTS, shard_spread=1e-9)


def evaluate(costs: Costs, *, images: int = 40_000, gpus: int = 1, shards: int = 1) -> float:
    return simulate(costs, Work(images, gpus, shards)).seconds["evaluate_fp32"]


def test_one_worker_and_one_shard_are_what_the_parts_add_up_to() -> None:
    reading, on_gpu = 40_000 * 0.0074 / 16, 40_000 * 2.1 / 2000
    assert reading < on_gpu
    # Starting, working, and the answers to its requests; the prefix is free.
    assert evaluate(EVEN) == pytest.approx(5 + on_gpu + 11 * 0.05)
    few_cores = replace(EVEN, cores_per_gpu=4)
    assert evaluate(few_cores) == pytest.approx(5 + 4 * reading + 11 * 0.05)


def test_what_does_not_shard_takes_as_long_on_all_clusters() -> None:
    one, many = (simulate(COSTS, Work(40_504, gpus, gpus)).seconds for gpus in (1, 100))
    assert {step for step in one if one[step] == many[step]} == set(one) - {"evaluate_fp32", "evaluate_quantized"}


@pytest.mark.parametrize(
    ("changes", "least_s"),
    [
        pytest.param({"tasks_per_second": 0.5}, 2 * 199, id="the scheduler"),
        pytest.param({"s3_requests_per_second": 1.0}, 11 * 200, id="requests to S3"),
        pytest.param({"source_bytes_per_s": 1e8}, 10 * 122_783 * 150_000 / 1e8, id="the source of the data"),
        pytest.param({"task_start_s": 60.0}, 60 * 20, id="starting tasks"),
    ],
)
def test_each_part_can_be_the_limit(changes: dict[str, float], least_s: float) -> None:
    asked = {"images": 40_000, "gpus": 10, "shards": 200}
    usual, limited = evaluate(EVEN, **asked), evaluate(replace(EVEN, **changes), **asked)
    assert usual < 0.5 * least_s
    assert least_s <= limited < least_s + usual


def test_workers_share_shards_and_a_cache_serves_both_evaluations() -> None:
    ideal = replace(EVEN, task_start_s=1e-9, s3_latency_s=1e-9, tasks_per_second=1e9, source_bytes_per_s=1e18)
    ideal = replace(ideal, worker_bytes_per_s=1e18, s3_requests_per_second=1e9)
    assert evaluate(ideal, gpus=8, shards=64) == pytest.approx(evaluate(ideal) / 8, rel=1e-3)
    for gpus in (1, 8):
        # Who has validated the data set has it already.
        fetched = simulate(COSTS, Work(40_000, gpus, 64)).fetched_bytes
        assert fetched == pytest.approx(gpus * 122_783 * 150_000)


def test_uneven_shards_are_made_up_for_by_more_of_them() -> None:
    uneven = replace(COSTS, shard_spread=1.0, task_start_s=0.1, tasks_per_second=1000)
    assert best_shards(uneven, 10_000_000, 10).shards > 10
    slow_to_start = replace(COSTS, task_start_s=600)
    assert best_shards(slow_to_start, 40_504, 10).shards == 10


def test_the_page_holds_what_the_costs_come_to(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "scaling.md").read_text()
    begin, end = marks("scaling.py")
    written = tmp_path / "scaling.md"
    written.write_text(page.partition(begin)[0] + begin + end + page.partition(end)[2])
    scaling.main(["--docs", str(written)])
    assert written.read_text() == page
    assert {one["kind"] for one in SAID.values()} == {"measured", "published", "assumed", "setting"}


def test_costs_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for speed in (200, 4000):
        scaling.main(["--set", f"gpu_fp32_persons_per_s={speed}"])
        told.append(capsys.readouterr().out)
    assert "a faster GPU in FP32" in told[0]
    assert "a faster GPU in FP32" not in told[1]


@pytest.mark.long
def test_the_picture_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "new" / "scaling.svg"
    scaling.main(["--picture", str(picture)])
    assert "</svg>" in picture.read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gpu_speed=3", "There is no cost 'gpu_speed'"),
        ("gpu_fp32_persons_per_s=0", "gpu_fp32_persons_per_s: costs are"),
    ],
)
def test_costs_that_are_none_are_refused(change: str, said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        scaling.main(["--set", change])


@pytest.mark.long
def test_costs_are_measured_anew(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    scaling.main(["--measure", str(file), "--images", "400", "--resamples", "400"])
    found = json.loads(file.read_text())
    assert found.keys() == SAID.keys()
    assert {name for name in found if found[name] != SAID[name]} == {
        "figures_s_per_image",
        "resampling_s_per_image",
        "requests_per_task",
    }
    assert found["requests_per_task"]["value"] == SAID["requests_per_task"]["value"]
    scaling.read_costs(file)
