"""The DAG on workers whose clocks are five minutes behind and ahead of everybody else's, and ten apart.

`pytest tests/integration/test_clocks_of_a_cluster.py -m "" -s --recoveries docs/operations.md`
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster_scene import ENDED, LEFT_OUT, PATIENCE_S, SUCCESS, Scene, cluster_scene
from support.other_clock import other_clock
from support.recoveries import Recoveries

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(2400)]

APART_S = 300
NEARLY_S = 30


@pytest.fixture(scope="module")
def scene(
    object_store_python: Path, tmp_path_factory: pytest.TempPathFactory, told_recoveries: Recoveries
) -> Iterator[Scene]:
    clocks = {"cpu-worker": other_clock(-APART_S), "gpu-worker": other_clock(APART_S)}
    with cluster_scene(tmp_path_factory.mktemp("cluster"), object_store_python, settings=clocks) as scene:
        yield scene
        told_recoveries(scene.recoveries)


def signed_by(scene: Scene, ahead_s: int) -> bool:
    """Whether somebody has signed requests to S3 with a clock that is so far ahead."""
    return any(abs(seen - ahead_s) < NEARLY_S for seen in scene.proxy.clocks_s)


def test_a_run_and_a_killed_worker_do_not_mind_clocks_that_are_apart(scene: Scene) -> None:
    with scene.recovery("clocks ten minutes apart: a run that nothing else disturbs"):
        run = scene.cluster.trigger(scene.settings)
        scene.ends_well(run)
    tasks = scene.cluster.tasks(run)
    assert {task["state"] for task in tasks.values()} <= LEFT_OUT
    assert {task["try_number"] for task in tasks.values() if task["state"] == "success"} == {1}
    for ahead_s in (-APART_S, APART_S):
        assert signed_by(scene, ahead_s), sorted(scene.proxy.clocks_s)
    served = scene.verified()

    # What the fast worker has begun goes on wherever it does, with leases and locks of either clock.
    scene.forget_results_of("quantize")
    with scene.proxy.fault(r"PUT /hpe-models/workspace/\S*/quantize/", "hold") as fault:
        attempt = scene.cluster.clear(run, "quantize")
        scene.wait_for(fault, run)
        worker = scene.cluster.worker_of(run, "quantize", attempt)
        pid = scene.cluster.pid(worker)
        with scene.recovery("clocks ten minutes apart, and a worker killed in `quantize`"):
            scene.cluster.kill(worker)
            fault.release(onwards=False)
            scene.cluster.started_again(worker, pid)
            scene.cluster.wait(f"{run}/taskInstances/quantize", SUCCESS)
    assert scene.cluster.wait(run, ENDED, PATIENCE_S) == "success", scene.cluster.states(run)
    # The same inputs: the same version, whatever the clocks say of when it was made.
    assert scene.verified() == served
