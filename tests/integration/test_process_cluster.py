"""The DAG on a cluster of processes that share nothing but S3, whose services are killed, restarted and cut off.

The last thing that it prints is a table of how long each fault was felt, which `--recoveries docs/operations.md` writes
into the page: `pytest tests/integration/test_process_cluster.py -m "" -s`.
"""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.cluster_scene import ENDED, FAILED, LEFT_OUT, PATIENCE_S, SUCCESS, WORKERS, Scene, cluster_scene
from support.figures import figures_of
from support.full_disk import FullDisk
from support.process_cluster import ANSWER_S, BUCKET
from support.recoveries import Recoveries

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(2400)]

PARTS = 3
IN_PARTS: dict[str, Any] = {"evaluation.shards": PARTS, "evaluation.batch_size": 2, "destination.name": "in-parts"}
OTHER: dict[str, Any] = {"recipe.calibration_images": 2, "destination.channel": "candidate"}
TRAINING = {
    "training.epochs": 3,
    "training.batch_size": 2,
    "training.state_every_steps": 1,
    "training.device": "cpu",
    "gate.resamples": 200,
    "destination.name": "trained",
}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> FullDisk:
    """Of the worker of the queue `gpu`."""
    return FullDisk(tmp_path_factory.mktemp("disk") / "full")


@pytest.fixture(scope="module")
def scene(
    object_store_python: Path, tmp_path_factory: pytest.TempPathFactory, told_recoveries: Recoveries, disk: FullDisk
) -> Iterator[Scene]:
    settings = {"gpu-worker": disk.environment}
    with cluster_scene(tmp_path_factory.mktemp("cluster"), object_store_python, settings=settings) as scene:
        yield scene
        told_recoveries(scene.recoveries)


@pytest.fixture(scope="module")
def finished(scene: Scene) -> str:
    """Id of a run that nothing has disturbed."""
    run = scene.cluster.trigger(scene.settings)
    assert scene.cluster.wait(run, ENDED, PATIENCE_S) == "success", scene.cluster.states(run)
    return run


def test_a_run_goes_through_on_workers_that_share_nothing_but_s3(scene: Scene, finished: str) -> None:
    tasks = scene.cluster.tasks(finished)
    assert {task["state"] for task in tasks.values()} <= LEFT_OUT
    assert {task["try_number"] for task in tasks.values() if task["state"] == "success"} == {1}
    version = scene.verified()
    (where,) = [r for r in scene.proxy.requests if r.startswith("PUT") and f"versions/{version}/manifest.json" in r]
    assert where
    # Each worker has fetched what it needed into a cache of its own, and nothing has gone by a disk.
    for worker in WORKERS:
        assert any((scene.cluster.home / worker / "cache").iterdir())
        assert not (scene.cluster.home / worker / ".hpe").exists()
    # The queue decides who does it, and what was said outlives the worker.
    assert scene.cluster.worker_of(finished, "quantize", 1) == "gpu-worker"
    kept = scene.store.client().list_objects_v2(Bucket=BUCKET, Prefix=f"logs/dag_id=hpe_requantize/run_id={finished}/")
    assert len(kept["Contents"]) >= sum(task["state"] == "success" for task in tasks.values())


@pytest.mark.parametrize(
    ("task", "at"),
    [
        pytest.param("quantize", r"PUT /hpe-models/workspace/\S*/quantize/", id="quantize"),
        pytest.param("evaluate_quantized", r"PUT /hpe-models/workspace/\S*/evaluate_quantized/", id="evaluate"),
        # The question right before the first thing that others see.
        pytest.param("publish", r"GET /hpe-models/workspace/used/", id="publish"),
    ],
)
def test_a_worker_is_killed(scene: Scene, finished: str, task: str, at: str) -> None:
    served = scene.verified()
    scene.forget_results_of(task)
    with scene.proxy.fault(at, "hold") as fault:
        attempt = scene.cluster.clear(finished, task, downstream=task == "publish")
        scene.wait_for(fault, finished)
        worker = scene.cluster.worker_of(finished, task, attempt)
        pid = scene.cluster.pid(worker)
        with scene.recovery(f"a worker killed in `{task}`"):
            scene.cluster.kill(worker)
            fault.release(onwards=False)
            # What is served does not depend on it.
            assert scene.verified() == served
            scene.cluster.started_again(worker, pid)
            scene.cluster.wait(f"{finished}/taskInstances/{task}", SUCCESS)
    assert scene.cluster.tasks(finished)[task]["try_number"] == attempt + 1
    scene.ends_well(finished)


def test_a_worker_that_is_killed_takes_one_part_of_a_measurement_along(scene: Scene) -> None:
    settings = scene.settings | IN_PARTS
    stored = r"PUT /hpe-models/workspace/\S*/evaluate_quantized_shards/"
    # In the second half of what all parts store: of the other two, one is made by then and one under way at most.
    with scene.proxy.fault(stored, "hold", after=2 * PARTS, repeats=True) as fault:
        run = scene.cluster.trigger(settings)
        scene.wait_for(fault, run)
        lost = scene.only_part_under_way(run, "evaluate_quantized_shards", PARTS)
        worker = scene.cluster.worker_of(run, "evaluate_quantized_shards", 1, part=lost)
        pid = scene.cluster.pid(worker)
        with scene.recovery("a worker killed in one of three parts of `evaluate_quantized`"):
            scene.cluster.kill(worker)
            fault.release(onwards=False)
            scene.cluster.started_again(worker, pid)
            scene.cluster.wait(f"{run}/taskInstances/evaluate_quantized", SUCCESS)
    parts = scene.cluster.parts(run, "evaluate_quantized_shards")
    made = {number: part["try_number"] for number, part in parts.items() if part["state"] == "success"}
    assert made == {number: 2 if number == lost else 1 for number in range(PARTS)}
    scene.ends_well(run, name=IN_PARTS["destination.name"])
    key, in_parts = scene.record_of(run, "evaluate_quantized")

    # Measured by one worker that nobody disturbs, under the same key: the number of parts decides nothing.
    scene.forget_results_of("evaluate_quantized", key)
    scene.forget_results_of("evaluate_quantized_shards")
    alone = scene.cluster.trigger(settings | {"evaluation.shards": 1})
    scene.ends_well(alone, name=IN_PARTS["destination.name"])
    assert scene.record_of(alone, "evaluate_quantized")[0] == key
    whole = scene.record_of(alone, "evaluate_quantized")[1]
    assert figures_of(whole["quantsim"]) == figures_of(in_parts["quantsim"])
    assert figures_of(whole["onnx"]) == figures_of(in_parts["onnx"])


def test_a_training_whose_worker_is_killed_goes_on_and_ends_with_the_same_bits(scene: Scene) -> None:
    cluster, settings = scene.cluster.of("hpe_retrain"), scene.settings | TRAINING
    run = cluster.trigger(settings)
    assert cluster.wait(run, ENDED, PATIENCE_S) == "success", cluster.states(run)
    undisturbed = scene.stored("train", "checkpoint.safetensors")
    scene.forget_results_of("train")
    # Its state is saved after each step: two of them are kept, and the third is lost with the worker.
    with scene.proxy.fault(r"PUT /hpe-models/workspace/runs/\S*/training\.state", "hold", after=2) as fault:
        attempt = cluster.clear(run, "train")
        scene.wait_for(fault, run)
        worker = cluster.worker_of(run, "train", attempt)
        pid = cluster.pid(worker)
        with scene.recovery("a worker killed in `train`"):
            cluster.kill(worker)
            fault.release(onwards=False)
            cluster.started_again(worker, pid)
            cluster.wait(f"{run}/taskInstances/train", SUCCESS)
    assert cluster.tasks(run)["train"]["try_number"] == attempt + 1
    said = cluster.task_log(run, "train", attempt + 1)
    assert "going on with the training that was killed" in said, said[-2000:]
    assert re.search(r"going on after step [1-9]\d* of", said), said[-2000:]
    assert scene.stored("train", "checkpoint.safetensors") == undisturbed
    assert cluster.wait(run, ENDED, PATIENCE_S) == "success", cluster.states(run)
    # Registered once: what was trained twice is the same checkpoint.
    registered = scene.store.client().list_objects_v2(Bucket=BUCKET, Prefix="registry/checkpoints/sha256/")
    assert [one["Key"].rpartition("/")[2] for one in registered["Contents"]] == [
        f"{hashlib.sha256(undisturbed).hexdigest()}.safetensors"
    ]


@pytest.mark.parametrize(
    ("service", "number"),
    [
        pytest.param("scheduler", signal.SIGKILL, id="the scheduler killed"),
        pytest.param("redis", signal.SIGTERM, id="Redis restarted"),
        pytest.param("postgres", signal.SIGINT, id="PostgreSQL restarted"),
    ],
)
def test_a_server_goes_and_comes_back(
    scene: Scene, finished: str, service: str, number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    with scene.proxy.fault(r"PUT /hpe-models/workspace/\S*/gate/", "hold") as fault:
        scene.cluster.clear(finished, "gate")
        scene.wait_for(fault, finished)
        with scene.recovery(request.node.callspec.id):
            pid = scene.cluster.end(service, number)
            # A task is under way meanwhile, and ends without what has gone.
            fault.release(onwards=True)
            scene.cluster.started_again(service, pid)
            scene.cluster.wait(f"{finished}/taskInstances/publish", SUCCESS)
    scene.ends_well(finished)


def test_an_orphan_ends_with_the_one_that_watched_it(scene: Scene, finished: str) -> None:
    with scene.proxy.fault(r"PUT /hpe-models/workspace/\S*/gate/", "hold") as fault:
        attempt = scene.cluster.clear(finished, "gate")
        scene.wait_for(fault, finished)
        task = scene.task_process(scene.cluster.worker_of(finished, "gate", attempt))
        with scene.recovery("a task's supervisor killed, and nothing else"):
            supervisor = task.parent()
            assert supervisor is not None
            supervisor.kill()
            # Nobody has told the task, which waits for an answer of S3.
            psutil.wait_procs([task], timeout=20)
            assert not task.is_running() or task.status() == psutil.STATUS_ZOMBIE
            fault.release(onwards=False)
            scene.cluster.wait(f"{finished}/taskInstances/gate", SUCCESS)
    scene.ends_well(finished)


def test_a_worker_that_is_cut_off_does_not_publish(scene: Scene, finished: str) -> None:
    scene.empty_registry()
    with scene.proxy.fault(r"GET /hpe-models/workspace/used/", "hold") as fault:
        attempt = scene.cluster.clear(finished, "publish")
        # The attempt asks whether it is still the last one, right before it publishes.
        scene.wait_for(fault, finished)
        worker = scene.cluster.worker_of(finished, "publish", attempt)
        began = len(scene.proxy.requests)
        with scene.recovery("a worker cut off from API server, Redis and PostgreSQL in `publish`"):
            for link in scene.links[worker]:
                link.cut()
            # It goes on elsewhere. The one that is cut off still has S3, and stands before its last question.
            scene.cluster.wait(f"{finished}/taskInstances/promote", SUCCESS, 900)
        assert scene.cluster.worker_of(finished, "publish", attempt + 1) != worker
        served = scene.verified()
        fault.release(onwards=True)
        orphan = scene.until_silent(finished, attempt)
        for link in scene.links[worker]:
            link.mend()
    written = [request for request in scene.proxy.requests[began:] if request.startswith("PUT /hpe-models/registry/")]
    assert len([request for request in written if request.endswith("/manifest.json")]) == 1
    assert len([request for request in written if "/channels/" in request]) == 1
    assert scene.verified() == served
    print(f"\nThe orphan was {'told of the other attempt' if 'Another attempt' in orphan else 'ended before'}.")
    scene.ends_well(finished)


def test_s3_that_refuses_cuts_loses_answers_and_is_slow(scene: Scene, finished: str) -> None:
    scene.empty_registry()
    with (
        scene.proxy.fault(r"PUT /hpe-models/(workspace|registry)/", "refuse", times=6) as refused,
        scene.proxy.fault(r"GET /hpe-models/(workspace|registry)/", "cut", times=3) as cut,
        scene.proxy.fault(r"PUT /hpe-models/registry/", "lose", times=2) as lost,
        scene.proxy.fault(r"GET /hpe-models/", "slow", times=20, wait_s=1.0),
        scene.recovery("S3 that answers 503, cuts, loses answers and is slow, from `gate` to the run's end"),
    ):
        scene.cluster.clear(finished, "gate")
        scene.ends_well(finished)
    assert (refused.met, cut.met, lost.met) == (6, 3, 2)


def test_a_worker_with_a_full_disk_says_so_and_a_retry_finishes(scene: Scene, finished: str, disk: FullDisk) -> None:
    served = scene.verified()
    scene.forget_results_of("quantize")
    with disk.full(scene.cluster.home / "gpu-worker" / "cache"):
        attempt = scene.cluster.clear(finished, "quantize", downstream=False)
        scene.cluster.wait(f"{finished}/taskInstances/quantize", FAILED)
    assert scene.cluster.worker_of(finished, "quantize", attempt) == "gpu-worker"
    scene.says(finished, "quantize", attempt, "quantize failed: The disk is full")
    assert scene.verified() == served
    with scene.recovery("a full disk in `quantize`, from the moment at which its task is cleared"):
        scene.cluster.clear(finished, "quantize", downstream=False)
        scene.cluster.wait(f"{finished}/taskInstances/quantize", SUCCESS)
    scene.ends_well(finished)


def test_of_two_publishers_of_two_versions_one_wins_and_the_other_is_told(scene: Scene, finished: str) -> None:
    scene.empty_registry()
    other = scene.cluster.trigger(scene.settings | OTHER)
    assert scene.cluster.wait(other, ENDED, PATIENCE_S) == "success", scene.cluster.states(other)
    theirs = scene.verified(OTHER["destination.channel"])
    with scene.proxy.fault(r"PUT /hpe-models/registry/\S*/channels/staging", "hold", repeats=True) as fault:
        scene.cluster.clear(finished, "publish")
        scene.wait_for(fault, finished)
        attempt = scene.cluster.tasks(finished)["promote"]["try_number"]
        with scene.recovery("two publishers of two versions, from the other's move until the loser is told"):
            scene.promote(theirs)
            fault.release(onwards=True)
            assert scene.cluster.wait(f"{finished}/taskInstances/promote", ENDED) == "failed"
    ours = scene.version_of(finished)
    assert ours != theirs
    told = (f"was changed while version {ours} was on its way", f"it now serves version {theirs}")
    scene.says(finished, "promote", attempt, *told)
    # The winner's is served. Both are whole: whoever wants the other's promotes it.
    assert scene.verified() == theirs
    assert scene.verified(ours) == ours
    scene.promote(ours)
    assert scene.verified() == ours
    scene.cluster.clear(finished, "promote")
    scene.ends_well(finished)


def test_two_publishers_leave_a_version_that_both_meant(scene: Scene, finished: str) -> None:
    scene.empty_registry()
    with scene.proxy.fault(r"PUT /hpe-models/registry/\S*/channels/", "hold", repeats=True) as fault:
        scene.cluster.clear(finished, "publish")
        scene.wait_for(fault, finished)
        version = scene.version_of(finished)
        with scene.recovery("two publishers of one version, from the other's move on"):
            scene.promote(version)
            fault.release(onwards=True)
            # Somebody else has done what it wanted: that is no failure.
            scene.ends_well(finished)
    assert scene.verified() == version


def test_one_run_triggered_twice_at_once_is_one_run(scene: Scene, finished: str) -> None:
    before = scene.verified()
    with scene.recovery("one run triggered four times at once"):
        answers = triggered(scene, ["twice"] * 4)
        scene.ends_well("twice")
    assert sorted(answers) == [200, 409, 409, 409]
    assert {state for state, _ in scene.cluster.states("twice").values()} <= LEFT_OUT
    # The same inputs: the same version.
    assert scene.verified() == before


def test_two_runs_that_want_the_same_at_once_publish_it_once(scene: Scene, finished: str) -> None:
    before = scene.verified()
    scene.empty_registry()
    began = len(scene.proxy.requests)
    with scene.recovery("two runs with equal settings triggered at once"):
        assert triggered(scene, ["one", "another"]) == [200, 200]
        for run in ("one", "another"):
            scene.ends_well(run)
    assert scene.version_of("one") == scene.version_of("another") == scene.verified() == before
    written = [request for request in scene.proxy.requests[began:] if request.startswith("PUT /hpe-models/registry/")]
    assert len([request for request in written if request.endswith("/manifest.json")]) == 1
    assert len([request for request in written if "/channels/" in request]) == 1


def triggered(scene: Scene, runs: Sequence[str]) -> list[int]:
    """Ask for runs of these names at once; the answers."""
    session, url = scene.cluster.session(), f"{scene.cluster.url}/api/v2/dags/hpe_requantize/dagRuns"

    def trigger(run: str) -> int:
        body = {"logical_date": None, "conf": scene.settings, "dag_run_id": run}
        return session.post(url, json=body, timeout=ANSWER_S).status_code

    with ThreadPoolExecutor(len(runs)) as pool:
        return list(pool.map(trigger, runs))
