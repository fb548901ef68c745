"""The DAG on a cluster of processes that share nothing but S3, whose services are killed, restarted and cut off.

The last thing that it prints is a table of how long each fault was felt:
`pytest tests/integration/test_process_cluster.py -m "" -s`.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpe_tasks.local.object_store import ObjectStore, Server
from support.cut_links import Link, links
from support.faulty_s3 import Fault, FaultyS3, faulty_s3
from support.process_cluster import BUCKET, ProcessCluster, free_ports, process_cluster, tiny_inputs_in

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(2400)]

SUCCESS, FAILED = {"success"}, {"failed"}
ENDED = SUCCESS | FAILED
LEFT_OUT = {"skipped", "success"}
WORKERS = ("cpu-worker", "gpu-worker")
SERVERS = ("api-server", "redis", "postgres")
FULL_BYTES = 300_000
PATIENCE_S = 1800.0


@dataclass
class Scene:
    """The cluster and what its runs are asked.

    Attributes:
        proxy: Stands between Airflow's services and S3.
        settings: Of a run that passes its gate.
        links: By worker, its connections to API server, Redis and PostgreSQL.
        recoveries: By fault: seconds from it until what it hit had ended well.
    """

    cluster: ProcessCluster
    proxy: FaultyS3
    store: Server
    settings: dict[str, Any]
    links: dict[str, list[Link]]
    recoveries: dict[str, float] = field(default_factory=dict)

    def wait_for(self, fault: Fault, run: str) -> None:
        """Wait until a fault has met its first request."""
        assert fault.seen.wait(PATIENCE_S), self.cluster.states(run)

    def ends_well(self, run: str) -> None:
        """Wait for the end of a run, which is a success, and for what is served to be verified."""
        assert self.cluster.wait(run, ENDED, PATIENCE_S) == "success", self.cluster.states(run)
        self.verified()

    def forget_results_of(self, step: str) -> None:
        """Let nothing be stored of what a step has made: it has to be made again."""
        self._empty(f"workspace/store/{step}/")

    def empty_registry(self) -> None:
        """Let nothing be published: versions and pointers are written again."""
        self._empty("registry/")

    def _empty(self, prefix: str) -> None:
        client = self.store.client()
        for one in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", ()):
            client.delete_object(Bucket=BUCKET, Key=one["Key"])

    def task_process(self, worker: str) -> psutil.Process:
        """The process of the task that a worker has: a child of the one that watches it."""
        below = psutil.Process(self.cluster.pid(worker)).children(recursive=True)
        (process,) = [process for process in below if "airflow worker -- " in " ".join(process.cmdline())]
        return process

    def until_silent(self, run: str, attempt: int, quiet_s: float = 20.0, patience_s: float = 300.0) -> str:
        """Wait until an attempt at `publish` says nothing any more; what it has said."""
        deadline = time.monotonic() + patience_s
        said, since = "", time.monotonic()
        while time.monotonic() - since < quiet_s and time.monotonic() < deadline:
            time.sleep(1)
            now = self.cluster.task_log(run, "publish", attempt)
            said, since = now, since if now == said else time.monotonic()
        return said

    def verified(self, channel: str = "staging", *, name: str = "tiny") -> str:
        """The version that a channel serves, verified from the registry alone."""
        done = self.cluster.hpe(*("verify", channel, "--name", name, "--registry", f"s3://{BUCKET}/registry", "--json"))
        assert done.returncode == 0, done.stdout + done.stderr
        return str(json.loads(done.stdout)["version"])

    @contextmanager
    def recovery(self, fault: str) -> Iterator[None]:
        """Note how long it takes from here to the end of the block."""
        began = time.monotonic()
        yield
        self.recoveries[fault] = time.monotonic() - began
        print(f"\n{fault}: {self.recoveries[fault]:.0f} s", flush=True)


@pytest.fixture(scope="module")
def scene(object_store_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with ExitStack() as held:
        folder = tmp_path_factory.mktemp("s3")
        store = held.enter_context(ObjectStore(folder, object_store_python, bucket=BUCKET))
        proxy = held.enter_context(faulty_s3(store.endpoint))
        ports = dict(zip(SERVERS, free_ports(len(SERVERS)), strict=True))
        cut = {worker: held.enter_context(links(ports.values())) for worker in WORKERS}
        options = ["--s3", "environment"]
        for worker in WORKERS:
            for server, link in zip(SERVERS, cut[worker], strict=True):
                options += ["--detour", worker, server, str(link.port)]
        # So that what one worker had can go on at the other.
        options += ["--queues", "gpu-worker", "gpu,default"]
        cluster = held.enter_context(
            process_cluster(
                options=options,
                ports=ports,
                environment=store.environment | {"AWS_ENDPOINT_URL_S3": proxy.address},
                direct=store.environment,
            )
        )
        settings = tiny_inputs_in(store.client(), tmp_path_factory.mktemp("tiny"))
        scene = Scene(cluster, proxy, store, settings, cut)
        yield scene
        print(f"\n\n{table(scene.recoveries)}")


def table(recoveries: dict[str, float]) -> str:
    """Time to recovery, in Markdown."""
    lines = [f"| {fault} | {took_s:.0f} s |" for fault, took_s in recoveries.items()]
    return "\n".join(["| fault | until the task that it hit has ended well |", "|---|---|", *lines])


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
    ):
        scene.cluster.clear(finished, "gate")
        scene.ends_well(finished)
    assert (refused.met, cut.met, lost.met) == (6, 3, 2)


def test_a_worker_with_a_full_disk_says_so_and_a_retry_finishes(scene: Scene, finished: str) -> None:
    served = scene.verified()
    scene.forget_results_of("quantize")
    worker = psutil.Process(scene.cluster.pid("gpu-worker"))
    everything = [worker, *worker.children(recursive=True)]
    # No file becomes larger than this: what a full disk comes to, without a disk for it.
    for process in everything:
        process.rlimit(psutil.RLIMIT_FSIZE, (FULL_BYTES, psutil.RLIM_INFINITY))
    try:
        attempt = scene.cluster.clear(finished, "quantize", downstream=False)
        scene.cluster.wait(f"{finished}/taskInstances/quantize", FAILED)
    finally:
        for process in everything:
            process.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
    said = scene.cluster.task_log(finished, "quantize", attempt)
    assert re.search(r"quantize failed: .*(disk|space|too large)", said), said[-2000:]
    assert scene.verified() == served
    with scene.recovery("a full disk in `quantize`, from the moment at which its task is cleared"):
        scene.cluster.clear(finished, "quantize", downstream=False)
        scene.cluster.wait(f"{finished}/taskInstances/quantize", SUCCESS)
    scene.ends_well(finished)


def test_two_publishers_leave_a_version_that_both_meant(scene: Scene, finished: str) -> None:
    scene.empty_registry()
    registry = ("--registry", f"s3://{BUCKET}/registry")
    with scene.proxy.fault(r"PUT /hpe-models/registry/\S*/channels/", "hold") as fault:
        scene.cluster.clear(finished, "publish")
        scene.wait_for(fault, finished)
        attempt = scene.cluster.tasks(finished)["promote"]["try_number"]
        (row,) = json.loads(scene.cluster.hpe("channel", "versions", "tiny", *registry, "--json").stdout)
        other = scene.cluster.hpe("channel", "promote", "tiny", row["version"], "--channel", "staging", *registry)
        assert other.returncode == 0, other.stdout + other.stderr
        fault.release(onwards=True)
        state = scene.cluster.wait(f"{finished}/taskInstances/promote", ENDED)
    assert scene.verified() == row["version"]
    if state == "failed":
        # It was told that another one was faster; tried again, it finds that all is done.
        assert "Another publisher" in scene.cluster.task_log(finished, "promote", attempt)
        scene.cluster.clear(finished, "promote")
    scene.ends_well(finished)
    assert scene.verified() == row["version"]


def test_one_run_triggered_twice_at_once_is_one_run(scene: Scene, finished: str) -> None:
    session, url = scene.cluster.session(), f"{scene.cluster.url}/api/v2/dags/hpe_requantize/dagRuns"
    before = scene.verified()
    body = {"logical_date": None, "conf": scene.settings, "dag_run_id": "twice"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: session.post(url, json=body, timeout=60).status_code, range(4)))
    assert sorted(answers) == [200, 409, 409, 409]
    scene.ends_well("twice")
    assert {state for state, _ in scene.cluster.states("twice").values()} <= LEFT_OUT
    # The same inputs: the same version.
    assert scene.verified() == before
