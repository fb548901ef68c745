"""One process at a time on a device: with other processes, which hold it and die."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpe_tasks.errors import TransientError
from hpe_tasks.storage.devices import LOCK_CPU, LOCKS, device_held, device_name, devices_held
from support.other_process import other_process

HOLDS = """
import os, sys, time
os.environ["HPE_DEVICE_LOCKS"] = sys.argv[1]
from hpe_tasks.storage.devices import device_held
with device_held("cuda"):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(LOCKS, str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv(LOCK_CPU, raising=False)
    return tmp_path / "locks"


def test_a_retry_does_not_share_the_device_of_an_orphan_and_has_it_when_that_ends(locks: Path) -> None:
    with other_process(HOLDS, locks) as orphan:
        with (
            pytest.raises(TransientError, match=rf"cuda of this machine is in use by process {orphan.pid}\."),
            device_held("cuda", patience_s=0.1),
        ):
            pytest.fail("both have it")
        orphan.kill()
        began = time.monotonic()
        with device_held("cuda", patience_s=30):
            assert time.monotonic() - began < 30


def test_another_device_is_free(locks: Path) -> None:
    with other_process(HOLDS, locks), device_held("cuda:1", patience_s=0), device_held("cpu", patience_s=0):
        pass


def test_a_process_may_hold_its_device_within_itself(locks: Path) -> None:
    with device_held("cuda", patience_s=0), device_held("cuda:0", patience_s=0):
        pass
    # And it is free afterwards.
    with other_process(HOLDS, locks):
        pass


def test_whoever_holds_a_device_longest_keeps_it(locks: Path) -> None:
    first, second = device_held("cuda", patience_s=0), device_held("cuda", patience_s=0)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    taken = subprocess.Popen([sys.executable, "-c", HOLDS, str(locks)], stdout=subprocess.PIPE, text=True)
    try:
        assert taken.stdout is not None
        assert select.select([taken.stdout], [], [], 3)[0] == []
        second.__exit__(None, None, None)
        assert taken.stdout.readline() == "ready\n"
    finally:
        taken.kill()
        taken.communicate()


def test_several_devices_are_held_together(locks: Path) -> None:
    with devices_held("cuda", 2):
        assert sorted(file.name for file in locks.iterdir()) == ["cuda-0.lock", "cuda-1.lock"]
    with other_process(HOLDS, locks), devices_held("cpu", 2):
        pass


def test_an_error_lets_it_go(locks: Path) -> None:
    with pytest.raises(ValueError, match="inside"), device_held("cuda", patience_s=0):
        raise ValueError("inside")
    with other_process(HOLDS, locks):
        pass


def test_the_processor_is_a_device_only_where_that_was_asked(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with device_held("cpu", patience_s=0):
        assert not locks.exists()
    monkeypatch.setenv(LOCK_CPU, "1")
    with device_held("cpu", patience_s=0):
        assert [file.name for file in locks.iterdir()] == ["cpu.lock"]


@pytest.mark.parametrize(
    ("device", "shown", "name"),
    [
        pytest.param("cuda", "", "cuda-0", id="all are shown"),
        pytest.param("cuda:1", "", "cuda-1", id="the second of all"),
        pytest.param("cuda", "3", "cuda-3", id="one is shown"),
        pytest.param("cuda:1", "2,3", "cuda-3", id="the second that is shown"),
        pytest.param("cuda", "GPU-8f/1", "cuda-GPU-8f_1", id="shown by its identity"),
        pytest.param("cpu", "0", "cpu", id="the processor"),
    ],
)
def test_a_device_is_called_the_same_by_all(
    device: str, shown: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    monkeypatch.setenv("PATH", "")  # nobody tells more of the GPUs
    assert device_name(device) == name


A, B = "GPU-8f3c1a77-0000-0000-0000-00000000000a", "GPU-91b20d00-0000-0000-0000-00000000000b"
ALIKE, UNLIKE = ("NVIDIA H200", "NVIDIA H200"), ("NVIDIA T4, 16 GB", "NVIDIA H200")


@pytest.mark.parametrize(
    ("device", "shown", "order", "models", "name"),
    [
        pytest.param("cuda:1", "", "", ALIKE, f"cuda-{B}", id="the second of all"),
        pytest.param("cuda", "1", "", ALIKE, f"cuda-{B}", id="shown by its number"),
        pytest.param("cuda", B, "", ALIKE, f"cuda-{B}", id="shown by its UUID"),
        pytest.param("cuda:1", "0,GPU-91b2", "", ALIKE, f"cuda-{B}", id="shown by the beginning of its UUID"),
        pytest.param("cuda", "GPU-", "", ALIKE, "cuda-GPU-", id="a beginning that two have"),
        pytest.param("cuda", "MIG-7", "", ALIKE, "cuda-MIG-7", id="a part of one"),
        pytest.param("cuda:2", "", "", ALIKE, "cuda-2", id="one that there is not"),
        pytest.param("cuda:1", "", "", UNLIKE, "cuda-1", id="CUDA's numbers are not nvidia-smi's"),
        pytest.param("cuda:1", "", "PCI_BUS_ID", UNLIKE, f"cuda-{B}", id="in the order of the slots"),
        pytest.param("cuda", B, "", UNLIKE, f"cuda-{B}", id="a UUID among unlike ones"),
    ],
)
def test_a_gpu_has_one_name_by_its_number_and_by_its_uuid(
    device: str,
    shown: str,
    order: str,
    models: tuple[str, str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tool = tmp_path / "nvidia-smi"
    rows = "".join(f'{index}, {uuid}, "{models[index]}"\n' for index, uuid in enumerate((A, B)))
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{rows}END\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    assert device_name(device) == name
