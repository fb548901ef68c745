"""Processes whose clocks are minutes apart keep out of each other's way all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hpe_tasks.storage import claims
from hpe_tasks.storage.claims import claim
from hpe_tasks.storage.local_workspace import LocalWorkspace
from support.other_clock import other_clock

APART = [pytest.param(-300, id="behind"), pytest.param(300, id="ahead")]

BUSY_S = 60
"""By so much a slow machine may be late: less than clocks are apart."""

LOOK = """
import json, os, pathlib, queue, sys, threading, time
held, file, began = threading.Lock(), pathlib.Path(sys.argv[1]), time.monotonic()
held.acquire()
held.acquire(timeout=0.1)
time.sleep(0.1)
try:
    queue.Queue().get(timeout=0.1)
except queue.Empty:
    pass
took = time.monotonic() - began
file.write_text("now")
written = file.stat().st_mtime - time.time()
os.utime(file, (time.time() - 50,) * 2)
set_back = os.stat(file).st_mtime - time.time()
child = os.popen("date +%s").read()
print(json.dumps([time.time(), took, written, set_back, next(os.scandir(file.parent)).stat().st_mtime, float(child)]))
"""

COLLECT = """
import pathlib, sys
from hpe_tasks.storage.claims import collecting
from hpe_tasks.storage.local_workspace import LocalWorkspace
with collecting(LocalWorkspace(pathlib.Path(sys.argv[1]))) as still_collecting:
    still_collecting()
    print("collecting", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("ahead_s", APART)
def test_a_program_sees_another_wall_clock_and_nothing_else(ahead_s: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOOK, str(tmp_path / "file")]
    began = time.time()
    said = subprocess.run(command, env=os.environ | other_clock(ahead_s), capture_output=True, text=True, check=True)
    now, took_s, written_s, set_back_s, listed, of_a_child = json.loads(said.stdout)
    for seen in (now, of_a_child):
        assert began - 1 <= seen - ahead_s <= time.time() + 1
    # What waits waits as long as ever, and files are as old as they are.
    assert 0.29 < took_s < BUSY_S
    assert abs(written_s) < BUSY_S
    assert abs(set_back_s + 50) < BUSY_S
    assert abs(listed - (now - 50)) < BUSY_S
    assert abs((tmp_path / "file").stat().st_mtime - (began - 50)) < BUSY_S


@pytest.mark.parametrize("ahead_s", APART)
def test_a_step_waits_for_a_collector_whose_clock_is_wrong(
    ahead_s: int, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_POLL_S", 0.05)
    environment = os.environ | other_clock(ahead_s) | {"PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", COLLECT, str(tmp_path)]
    collector = subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert collector.stdin is not None
    assert collector.stdout is not None
    assert collector.stdout.readline() == "collecting\n"
    done = threading.Event()
    workspace = LocalWorkspace(tmp_path)
    step = threading.Thread(target=lambda: (claim(workspace, "runs/r"), done.set()))
    step.start()
    assert not done.wait(1.0), "it waits"
    collector.stdin.close()
    assert collector.wait(30) == 0
    assert done.wait(30), "and goes on when the collector has ended"
    step.join()
    collector.stdout.close()
    assert not list(workspace.files("clock"))
