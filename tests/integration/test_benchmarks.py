"""Programs of `benchmarks/`, for training, shards, calibration and evaluation, each run once with the least to do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.tiny_inputs import tiny_settings

pytestmark = [pytest.mark.integration]


def said(repository: Path, program: str, *arguments: str) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, str(repository / "benchmarks" / program), *arguments],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_outputs_in_other_batches(repository: Path) -> None:
    lines = said(repository, "shards.py", "--batches").splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"{runtime}, {threads} threads" for threads in (1, 2) for runtime in ("torch", "onnxruntime")
    ]
    for line in lines:
        apart = [float(one) for one in re.findall(r"\d\.\de[-+]\d\d", line)]
        assert len(apart) == 4
        assert max(apart) < 1e-3


@pytest.mark.long
def test_training(repository: Path, tmp_path: Path) -> None:
    least = ("--network", "pose_mobilenet", "--batch", "2", "--steps", "1", "--rounds", "1", "--workers", "0")
    said(repository, "training.py", *least, "--json", str(tmp_path / "told.json"))
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["network"], told["precision"], told["device"]) == ("pose_mobilenet", "fp32", "cpu")
    product, plain = told["product"]["examples_per_s"], told["plain"]["examples_per_s"]
    assert product > 0
    assert told["ratio"] == pytest.approx(product / plain)
    assert all(100 < told[loop]["memory_mb"] < 20_000 for loop in ("plain", "product"))


@pytest.mark.long
@pytest.mark.parametrize("workers", [(), ("--celery",)], ids=["processes", "celery"])
def test_shards(repository: Path, tmp_path: Path, object_store_python: Path, workers: tuple[str, ...]) -> None:
    settings: dict[str, Any] = {**tiny_settings(tmp_path), "evaluation.batch_size": 2}
    given = [f"--set={key}={value}" for key, value in settings.items() if key != "preset"]
    least = ("--parts", "2", "--workers", "1", "2", "--rounds", "1", "--server-python", str(object_store_python))
    text = said(repository, "shards.py", *workers, *least, *given)
    assert re.search(r"^sample, \d+ persons, 2 parts, ", text)
    for way in ("whole", "1 worker", "2 workers"):
        assert re.search(rf"^{way} +\d+\.\d +\d+\.\d", text, re.MULTILINE), text
    assert re.search(r"^a part costs -?\d+\.\d\d s more", text, re.MULTILINE), text
    assert re.search(r"^2 workers are \d+\.\d\d times as fast as one$", text, re.MULTILINE), text
    for what in ("a part", "putting 2 together", "the whole"):
        found = re.search(rf"^S3 requests of {what}: (\d+) \((.*)\)$", text, re.MULTILINE)
        assert found, text
        assert int(found[1]) == sum(int(one.split()[-1]) for one in found[2].split(", ")) > 0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_calibration(repository: Path) -> None:
    told = json.loads(said(repository, "calibration.py", "--images", "8", "--json"))
    assert {(row["network"], row["scheme"]) for row in told["rows"]} == {
        (network, scheme)
        for network in ("pose_mobilenet", "pose_resnet_50", "aimet_pose")
        for scheme in ("min_max", "tf_enhanced", "percentile", "mse")
    }
    for row in told["rows"]:
        assert row["ratio"] == pytest.approx(row["calibration_ms"] / row["forward_ms"])
        assert row["forward_ms"] > 0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_evaluation(repository: Path, test_data: Path) -> None:
    text = said(repository, "evaluation.py", "--data", str(test_data), "--rounds", "1")
    assert re.search(r"^\d+ photographs, [1-9]\d* people found by every path$", text, re.MULTILINE), text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    figures = {row[0]: [float(cell.rstrip("×")) for cell in row[1:]] for row in rows[2:]}
    assert figures.keys() >= {"plain", "int8", "no network"}
    assert figures["plain"][1] == 1.0
    assert all(row[0] > 0 for row in figures.values())
