from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import StorageError
from hpe_tasks.preflight import machine
from hpe_tasks.preflight.machine import calibration_s, check_disk, check_processor, forward_seconds, processor_text
from hpe_tasks.preflight.memory import LIBRARIES_BYTES, available_memory, check_memory, needed_memory

GB = 10**9
Usage = namedtuple("Usage", ["total", "used", "free"])


def disk(monkeypatch: pytest.MonkeyPatch, free: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12 - free, int(free)))


@pytest.mark.parametrize(
    ("free", "state"),
    [
        pytest.param(9.0, "ok", id="room"),
        pytest.param(3.5, "warning", id="little room beyond the need"),
        pytest.param(2.9, "failed", id="full"),
    ],
)
def test_the_needs_of_folders_on_one_disk_are_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: float, state: str
) -> None:
    disk(monkeypatch, free * GB)
    folders = {tmp_path / "not" / "yet": 2 * GB, tmp_path: GB}
    if state == "failed":
        with pytest.raises(StorageError, match=r"2\.9 GB free, about 3\.0 GB needed.*HPE_CACHE"):
            check_disk(folders)
        return
    found = check_disk(folders)
    assert f"{free} GB free, about 3.0 GB needed" in found.found
    assert bool(found.warning) == (state == "warning")


@pytest.mark.parametrize(
    ("available", "state"),
    [
        pytest.param(8 * GB, "ok", id="enough"),
        pytest.param(2 * GB, "warning", id="less than needed"),
        pytest.param(LIBRARIES_BYTES - 1, "failed", id="too little for the libraries"),
    ],
)
def test_memory(available: int, state: str) -> None:
    needed = needed_memory(136_000_000)
    assert 2.6 * GB < needed < 4 * GB
    if state == "failed":
        with pytest.raises(StorageError, match=r"not enough memory: 1\.2 GB available.*evaluation\.batch_size"):
            check_memory(needed, available)
        return
    assert bool(check_memory(needed, available).warning) == (state == "warning")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        pytest.param(str(3 * GB), 2 * GB, id="limited container"),
        pytest.param(str(GB // 2), 0, id="beyond its limit"),
        pytest.param("max", 7_000_000 * 1024, id="no limit"),
        pytest.param(None, 7_000_000 * 1024, id="no container"),
    ],
)
def test_a_containers_limit_counts(tmp_path: Path, limit: str | None, expected: int) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{3 * GB}\n")
        # Two of the three are files that were read.
        (tmp_path / "memory.stat").write_text(f"anon {GB}\nfile {2 * GB}\ninactive_file {2 * GB}\n")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 64000000 kB\nMemAvailable: 6000000 kB\nHugePages_Total: 0\nSwapFree: 1000000 kB\n")
    assert available_memory(tmp_path, meminfo) == expected


def test_a_container_with_a_limit_above_what_is_there_has_what_is_there(tmp_path: Path) -> None:
    for name, text in (("memory.max", f"{64 * GB}"), ("memory.current", "0"), ("memory.stat", "anon 0")):
        (tmp_path / name).write_text(f"{text}\n")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemAvailable: 6000000 kB\nSwapFree: 0 kB\n")
    assert available_memory(tmp_path, meminfo) == 6_000_000 * 1024


@pytest.mark.parametrize("text", [pytest.param(None, id="no file"), pytest.param("MemTotal: 1 kB\n", id="old kernel")])
def test_where_the_system_does_not_say_what_it_has_the_need_is_said(tmp_path: Path, text: str | None) -> None:
    meminfo = tmp_path / "meminfo"
    if text is not None:
        meminfo.write_text(text)
    assert available_memory(tmp_path, meminfo) is None
    found = check_memory(3 * GB, None)
    assert (found.found, found.warning) == (
        "about 3.0 GB needed; this system does not say how much is available",
        "",
    )


def test_this_machine_says_what_it_has() -> None:
    available = available_memory()
    assert available is not None
    assert GB // 10 < available < 10_000 * GB


@pytest.mark.parametrize(
    ("features", "says"),
    [
        pytest.param(("x86_64", "avx2", "avx512_vnni"), "full speed (VNNI: avx512_vnni)", id="VNNI"),
        pytest.param(("x86_64", "avx2", "avx_vnni"), "full speed (VNNI: avx_vnni)", id="AVX-VNNI"),
        pytest.param(("x86_64", "avx2"), "no VNNI: int8 runs more slowly", id="AVX2"),
        pytest.param(("x86_64", "avx2", "avx512bw"), "no VNNI: int8 runs more slowly", id="AVX-512"),
        pytest.param(("x86_64",), "neither AVX2 nor VNNI", id="older"),
        pytest.param(("aarch64", "asimddp", "i8mm"), "arm64 with int8 matrix", id="arm64"),
        pytest.param(("aarch64", "asimddp"), "arm64 without int8 matrix", id="older arm64"),
    ],
)
def test_what_a_processor_means(features: tuple[str, ...], says: str) -> None:
    assert says in processor_text("Some Processor", features)


def config(**settings: Any) -> RunConfig:
    return load_config("sample", overrides={key.replace("__", "."): value for key, value in settings.items()})


@pytest.mark.parametrize(
    ("device", "forward_s", "says", "warns"),
    [
        pytest.param("cuda", None, "A GPU calibrates", False, id="GPU"),
        pytest.param("cpu", None, "the CPU calibrates", False, id="not measured"),
        pytest.param("cpu", 0.001, "takes about 20 seconds", False, id="quick"),
        pytest.param("cpu", 0.2, "minutes", False, id="minutes"),
        pytest.param("cpu", 20.0, "hours", True, id="hours"),
    ],
)
def test_how_long_calibration_takes(device: str, forward_s: float | None, says: str, warns: bool) -> None:
    found = check_processor(config(recipe__calibration_images=200), device, forward_s)
    assert says in found.found
    assert bool(found.warning) == warns
    if warns:
        assert "recipe.calibration_images (now 200), or set recipe.scheme=min_max" in found.warning


@pytest.mark.parametrize(
    ("features", "saturation_free", "says"),
    [
        pytest.param(("x86_64", "avx2"), True, "computes the same", id="AVX2"),
        pytest.param(("x86_64", "avx2"), False, "may clip here", id="AVX2, full weights"),
        pytest.param(("x86_64", "avx2", "avx512_vnni"), False, "full speed", id="VNNI, full weights"),
    ],
)
def test_whether_it_computes_the_same_here(
    monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], saturation_free: bool, says: str
) -> None:
    monkeypatch.setattr(machine, "cpu_features", lambda: features)
    found = check_processor(config(recipe__saturation_free=saturation_free), "cuda", None).found
    assert says in found
    assert ("clip" in found) == (says == "may clip here")


def test_more_images_take_longer() -> None:
    few, many = (calibration_s(config(recipe__calibration_images=n), 0.1) for n in (100, 1000))
    assert many - machine.FIXED_S == pytest.approx(10 * (few - machine.FIXED_S))


def test_the_float_network_is_timed() -> None:
    from hpe_tasks.models.checkpoint import sample_checkpoint

    assert 0 < forward_seconds(config(), sample_checkpoint()) < 60
