from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from hpe_tasks.contract.cpu import available_threads, cpu_features, processor_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("flags\t\t: fpu avx2 avx512_vnni\n", ("avx2", "avx512_vnni"), id="x86"),
        pytest.param("Features\t: fp asimddp i8mm\n", ("asimddp", "i8mm"), id="arm"),
        pytest.param("model name: unknown\n", (), id="none"),
    ],
)
def test_cpu_features_come_from_the_kernel(text: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert cpu_features(cpuinfo)[1:] == expected


def test_only_the_machine_is_named_where_no_kernel_tells(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "cpuinfo") == (platform.machine(),)
    assert processor_name(tmp_path / "cpuinfo") == platform.machine()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("processor : 0\nmodel name\t: AMD EPYC 9R14  96-Core\n", "AMD EPYC 9R14 96-Core", id="x86"),
        pytest.param("CPU implementer\t: 0x41\nCPU part\t: 0xd40\n", "ARM Neoverse V1", id="Graviton 3"),
        pytest.param("CPU part\t: 0xabc\n", "ARM core 0xabc", id="an ARM core without a name here"),
        pytest.param("model name\t:\n", platform.machine(), id="empty"),
        pytest.param("", platform.machine(), id="nothing"),
    ],
)
def test_the_processor_is_named(text: str, expected: str, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert processor_name(cpuinfo) == expected


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [
        pytest.param(None, 8, id="no quota file"),
        pytest.param("max 100000\n", 8, id="no quota"),
        pytest.param("350000 100000\n", 3, id="three CPUs and a half"),
        pytest.param("50000 100000\n", 1, id="half a CPU"),
        pytest.param("1600000 100000\n", 8, id="more than it is bound to"),
    ],
)
def test_threads_are_those_that_a_container_may_keep_busy(
    cpu_max: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    file = tmp_path / "cpu.max"
    if cpu_max is not None:
        file.write_text(cpu_max)
    assert available_threads(file) == expected


@pytest.mark.parametrize(("asked", "expected"), [("2", 2), ("1", 1), ("0", 1), ("99", 8), ("", 8), ("4,2", 8)])
def test_threads_are_those_that_are_asked_for_as_of_torch(
    asked: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert available_threads(tmp_path / "none") == expected
