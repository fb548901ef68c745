"""Celery's workers for benchmarks/shards.py: processes with one thread each, which take parts from a queue in Redis."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from shards import make_ready, share

BROKER, LANE = "HPE_BENCH_BROKER", "HPE_BENCH_LANE"
PARTS = "parts"
PATIENCE_S = 1800.0

app = Celery("celery_workers", broker=os.environ.get(BROKER), backend=os.environ.get(BROKER))
# As Airflow's CeleryExecutor: a worker fetches no part before it has finished the one it has.
app.conf.update(worker_prefetch_multiplier=1, task_acks_late=True, result_expires=3600)


@app.task  # type: ignore[untyped-decorator]
def get_ready() -> None:
    """Done once by each worker, before the time counts."""
    make_ready(json.loads(os.environ[LANE]))


@app.task  # type: ignore[untyped-decorator]
def make_part(number: int) -> dict[str, Any]:
    """One part, by whichever worker is free."""
    return share({**json.loads(os.environ[LANE]), "numbers": [number]})


@contextmanager
def ended_by_pid(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[None]:
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, cwd=folder, stdout=sys.stderr, stdin=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ordered(broker: str, workers: int, parts: int) -> tuple[float, list[dict[str, Any]]]:
    """Order the parts of workers that are ready. Results are dropped at its end, while Redis is there to be told so."""
    with Celery(broker=broker, backend=broker, set_as_current=False) as client:
        for ready in [client.send_task(get_ready.name, queue=f"lane{number}") for number in range(workers)]:
            ready.get(timeout=PATIENCE_S)
        began = time.monotonic()
        orders = [client.send_task(make_part.name, [number], queue=PARTS) for number in range(parts)]
        told = [order.get(timeout=PATIENCE_S) for order in orders]
        return time.monotonic() - began, told


def by_celery(
    lanes: Sequence[Mapping[str, Any]], parts: int, environment: Mapping[str, str]
) -> tuple[float, list[dict[str, Any]]]:
    """Seconds from the first part's order until the last part's result, and what each part tells.

    Args:
        lanes: Of each worker, what `shards.make_ready` and `shards.share` take.
        parts: How many parts there are.
        environment: Further variables of the workers.
    """
    server = shutil.which("redis-server")
    if server is None:
        raise SystemExit("redis-server is not installed: apt-get install redis-server")
    port = free_port()
    broker = f"redis://127.0.0.1:{port}/0"
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as held:
        folder, here = Path(temporary), Path(__file__).parent
        quiet = ["--save", "", "--loglevel", "warning"]
        held.enter_context(ended_by_pid([server, "--port", str(port), "--bind", "127.0.0.1", *quiet], {}, folder))
        connection = redis.Redis(port=port)
        deadline = time.monotonic() + 30
        while True:
            try:
                connection.ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        for number, lane in enumerate(lanes):
            own = {**environment, BROKER: broker, LANE: json.dumps(lane), "PYTHONPATH": str(here)}
            command = [sys.executable, "-m", "celery", "-A", "celery_workers", "worker", "-c", "1", "-P", "prefork"]
            command += ["-Q", f"lane{number},{PARTS}", "-n", f"lane{number}@bench", "-l", "WARNING"]
            command += ["--without-gossip", "--without-mingle"]
            held.enter_context(ended_by_pid(command, own, folder))
        return ordered(broker, len(lanes), parts)
