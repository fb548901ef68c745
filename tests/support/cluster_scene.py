"""A cluster of processes behind proxies, the run that faults hit, and how long each fault was felt."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from hpe_tasks.local.object_store import ObjectStore, Server
from hpe_tasks.storage.workspace import RESULT
from support.cut_links import Link, links
from support.faulty_s3 import Fault, FaultyS3, faulty_s3
from support.process_cluster import BUCKET, ProcessCluster, free_ports, process_cluster, tiny_inputs_in

SUCCESS, FAILED = {"success"}, {"failed"}
ENDED = SUCCESS | FAILED
LEFT_OUT = {"skipped", "success"}
WORKERS = ("cpu-worker", "gpu-worker")
SERVERS = ("api-server", "redis", "postgres")
PATIENCE_S = 1800.0
RUN_KEY = "hpe_run"
"""Where tasks keep the name of their run's folder; see `hpe_airflow.run_names`."""


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

    def ends_well(self, run: str, *, name: str = "tiny") -> None:
        """Wait for the end of a run, which is a success, and for what is served to be verified."""
        assert self.cluster.wait(run, ENDED, PATIENCE_S) == "success", self.cluster.states(run)
        self.verified(name=name)

    def forget_results_of(self, step: str, key: str = "") -> None:
        """Let nothing be stored of what a step has made, or has made of these inputs: it has to be made again."""
        self._empty(f"workspace/store/{step}/{key}")

    def empty_registry(self) -> None:
        """Let nothing be published: versions and pointers are written again."""
        self._empty("registry/")

    def record_of(self, run: str, step: str) -> tuple[str, dict[str, Any]]:
        """The key and the record of what a step has left in a run."""
        folder = self.cluster.xcom(run, step, RUN_KEY)
        kept = self.store.client().get_object(Bucket=BUCKET, Key=f"workspace/runs/{folder}/{step}/{RESULT}")
        pointer: dict[str, Any] = json.loads(kept["Body"].read())
        return pointer["key"], pointer["record"]

    def version_of(self, run: str) -> str:
        """The version that a run has published."""
        return str(self.record_of(run, "publish")[1]["version"])

    def promote(self, version: str, channel: str = "staging", *, name: str = "tiny") -> None:
        """Move a channel by command, past the proxy."""
        where = ("--channel", channel, "--registry", f"s3://{BUCKET}/registry")
        done = self.cluster.hpe("channel", "promote", name, version, *where)
        assert done.returncode == 0, done.stdout + done.stderr

    def only_part_under_way(self, run: str, task: str, parts: int) -> int:
        """Wait until all parts of a task have ended but one; its number."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            made = self.cluster.parts(run, task)
            ended = {number for number in range(parts) if made[number]["state"] == "success"}
            if len(ended) == parts - 1:
                (left,) = set(range(parts)) - ended
                return left
            time.sleep(0.5)
        raise AssertionError(self.cluster.states(run))

    def stored(self, step: str, file: str) -> bytes:
        """A file that a step has stored; of the only result that there is."""
        client, prefix = self.store.client(), f"workspace/store/{step}/"
        keys = [one["Key"] for one in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]]
        (key,) = [key for key in keys if key.endswith(f"/{file}")]
        content: bytes = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def _empty(self, prefix: str) -> None:
        client = self.store.client()
        for one in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", ()):
            client.delete_object(Bucket=BUCKET, Key=one["Key"])

    def task_process(self, worker: str) -> psutil.Process:
        """The process of the task that a worker has: a child of the one that watches it."""
        below = psutil.Process(self.cluster.pid(worker)).children(recursive=True)
        (process,) = [process for process in below if "airflow worker -- " in " ".join(process.cmdline())]
        return process

    def says(self, run: str, task: str, attempt: int, *texts: str, patience_s: float = 60.0) -> None:
        """Wait until an attempt's log holds all of these: a worker writes it a while after it has told the outcome."""
        deadline = time.monotonic() + patience_s
        while not all(text in (said := self.cluster.task_log(run, task, attempt)) for text in texts):
            assert time.monotonic() < deadline, said[-2000:]
            time.sleep(0.5)

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


@contextmanager
def cluster_scene(
    folder: Path, object_store_python: Path, *, settings: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[Scene]:
    """Start a cluster whose connections a test can disturb, with the inputs of a tiny run in its S3.

    Args:
        folder: Takes what the S3 server keeps, and the inputs.
        object_store_python: Interpreter of the environment that holds the S3 server.
        settings: Further environment variables by service.
    """
    with ExitStack() as held:
        store = held.enter_context(ObjectStore(folder / "s3", object_store_python, bucket=BUCKET))
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
                settings=settings,
                options=options,
                ports=ports,
                environment=store.environment | {"AWS_ENDPOINT_URL_S3": proxy.address},
                direct=store.environment,
            )
        )
        inputs = folder / "inputs"
        inputs.mkdir()
        yield Scene(cluster, proxy, store, tiny_inputs_in(store.client(), inputs), cut)
