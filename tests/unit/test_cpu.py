from __future__ import annotations

import platform
from pathlib import Path

import pytest

from hpe_tasks.cpu import cpu_features, processor_name


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("processor\t: 0\nmodel name\t: AMD EPYC  7R13\nflags\t: avx2\n", "AMD EPYC 7R13", id="x86"),
        pytest.param("processor\t: 0\nFeatures\t: fp\n", platform.machine(), id="arm"),
        pytest.param(None, platform.machine(), id="no kernel tells"),
    ],
)
def test_the_processor_has_a_name(text: str | None, expected: str, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    assert processor_name(cpuinfo) == expected
