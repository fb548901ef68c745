"""The benchmark's tables from what several machines have measured; the measuring itself is the benchmark's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "model_latency.py"
FILES = ("fp32", "dynamic_u8", "dynamic_s8", "static_ort", "static", "ours")


def measured(
    features: tuple[str, ...], ours: float, *, as_processor: str | None = None, threads: tuple[str, ...] = ("1", "2")
) -> dict[str, Any]:
    """Every file is as fast as FP32 but ours, and dynamic, signed, which is a fifth as fast."""

    def figures(name: str) -> dict[str, float]:
        times = {"ours": ours, "dynamic_s8": 0.2}.get(name, 1.0)
        spread = {"times_low": 0.9 * times, "times_high": 1.1 * times}
        taken = {"load_ms": 100.0, "median_ms": 137.84 / times, "p95_ms": 150.0 / times, "peak_rss_mb": 146.0}
        return {**taken, "times_fp32": times, **spread}

    result = {
        "size_mb": dict.fromkeys(FILES, 34.51),
        "sqnr_db": {name: None if name == "fp32" else 27.84 for name in FILES},
        "threads": {count: {name: figures(name) for name in FILES} for count in threads},
    }
    return {
        "processor": "AMD EPYC 9R14",
        "cpu_features": ["x86_64", *features],
        "as_processor": as_processor,
        "onnxruntime": "1.31.0",
        "models": {"pose_resnet_50": result},
    }


def merge(
    folder: Path, *all_measured: dict[str, Any], options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    files = [folder / f"{number}.json" for number in range(len(all_measured))]
    for file, one in zip(files, all_measured, strict=True):
        file.write_text(json.dumps(one))
    command = [sys.executable, str(BENCHMARK), "--merge", *map(str, files), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


VNNI = measured(("avx2", "avx512_vnni"), 3.57)
AVX2 = measured(("avx2",), 1.84)
HIDDEN = measured(("avx2",), 1.9, as_processor="avx2")


def test_two_machines_have_a_table_each_and_targets_of_their_own(tmp_path: Path) -> None:
    docs = tmp_path / "docs.md"
    page = (BENCHMARK.parents[1] / "docs" / "benchmarks.md").read_text()
    begin, end = (line for line in page.splitlines() if line.startswith("<!--") and "model_latency" in line)
    docs.write_text(f"before\n\n{begin}\nold tables\n{end}\n\nafter\n")
    picture = tmp_path / "pictures" / "latency.svg"
    done = merge(tmp_path, VNNI, AVX2, options=("--docs", str(docs), "--picture", str(picture)))
    assert done.returncode == 0, done.stderr
    text = docs.read_text()
    assert text.startswith(
        f"before\n\n{begin}\n\n**AMD EPYC 9R14, VNNI** (x86_64, avx2, avx512_vnni; onnxruntime 1.31.0):"
    )
    assert text.endswith(f"{end}\n\nafter\n")
    assert "old tables" not in text
    assert "**AMD EPYC 9R14, AVX2, no VNNI** (x86_64, avx2; onnxruntime 1.31.0):" in text
    ours = "| pose_resnet_50 | ours | 34.51 | 100 | 38.6 / 42.0 | 3.57× (3.21–3.93) | 38.6 / 42.0 |"
    assert text.count(ours) == 1
    assert "| VNNI | times as fast as FP32, 1 thread | 3.57 | ≥ 3.5 | met |" in text
    assert "| VNNI | times as fast as dynamic, signed, 1 thread | 17.85 | ≥ 10 | met |" in text
    assert "| AVX2, no VNNI | times as fast as FP32, 1 thread | 1.84 | ≥ 1.85 | **missed** |" in text
    assert (
        "| AVX2, no VNNI | times as fast as onnxruntime's static QDQ with reduce_range, 1 thread | 1.84 | ≥ 1.4 | met |"
    ) in text
    assert picture.read_text().count("AMD EPYC 9R14, AVX2, no VNNI") >= 1
    # Written again, it says the same.
    assert merge(tmp_path, VNNI, AVX2, options=("--docs", str(docs))).returncode == 0
    assert docs.read_text() == text


def test_hidden_instructions_are_told_and_memory_is_not(tmp_path: Path) -> None:
    shown = merge(tmp_path, HIDDEN).stdout
    assert "**AVX2 kernels on AMD EPYC 9R14, whose VNNI is hidden** (x86_64, avx2; onnxruntime 1.31.0):" in shown
    assert "| – | 27.8 |" in shown
    assert "146" not in shown
    assert "RSS, MB, 1 thread" not in shown


@pytest.mark.parametrize(
    ("other", "says"),
    [
        pytest.param(measured(("avx2",), 1.8, threads=("1",)), "measure the same on each machine", id="other threads"),
        pytest.param({**AVX2, "models": {}}, "measure the same on each machine", id="other networks"),
    ],
)
def test_machines_that_measured_something_else_are_not_merged(other: dict[str, Any], says: str, tmp_path: Path) -> None:
    done = merge(tmp_path, VNNI, other)
    assert done.returncode == 1
    assert says in done.stderr
    assert "1.json" in done.stderr


def test_a_document_without_the_marks_is_left_alone(tmp_path: Path) -> None:
    docs = tmp_path / "docs.md"
    docs.write_text("no marks\n")
    done = merge(tmp_path, VNNI, options=("--docs", str(docs)))
    assert done.returncode == 1
    assert "docs.md lacks the lines" in done.stderr
    assert docs.read_text() == "no marks\n"
