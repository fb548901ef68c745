from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from hpe_tasks.report.summary import summary_table
from tests.run_cases import HOSTILE, STATES, broken_dataset, complete, gate_failed, only_config, step_failed


def printed(records: object, width: int = 120, **options: str) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(summary_table(records, **options))  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_published_run_shows_what_a_person_asks_for() -> None:
    text = printed(complete(), report="/runs/report.html")
    assert "Published sample-pose 3f9c2a7b41d0e856" in text
    lines = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    assert "0.681" in lines["FP32"]
    assert "0.672" in lines["QuantSim"]
    assert "0.668" in lines["ONNX int8"]
    assert all("312" in lines[name] and "156" in lines[name] for name in ("FP32", "QuantSim", "ONNX int8"))
    assert all(part in lines["Accuracy lost by quantization"] for part in ("0.013", "≤ 0.020", "passed"))
    assert all(part in lines["Arithmetic that runs in int8"] for part in ("87.4 %", "≥ 50.0 %"))
    assert "FP32 2.31 MB, ONNX int8 0.71 MB (3.2 times smaller)" in text
    assert "s3://hpe-models/registry/models/sample-pose/versions/3f9c2a7b41d0e856/manifest.json" in text
    assert "/runs/report.html" in text
    assert "quick look" not in text


def test_a_failed_gate_names_the_checks_and_the_subset() -> None:
    text = printed(gate_failed(), width=200)
    assert "Not published: the gate failed" in text
    assert text.count("FAILED") == 5
    assert "ONNX AP 0.574 is below 0.600" in text
    assert text.count("quick look") == 3
    assert "Published" not in text


def test_a_failed_step_shows_message_and_hint() -> None:
    text = printed(step_failed())
    assert "Failed at export_onnx" in text
    assert HOSTILE in text
    assert "What to do: Write the model as ONNX" in text
    assert text.count("not measured") == 2


def test_values_of_users_are_not_read_as_markup() -> None:
    assert "[red]bold[/]" in printed(replace(only_config(), run="[red]bold[/]"))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("width", [60, 80, 160])
def test_it_fits_any_width(state: str, width: int) -> None:
    text = printed(STATES[state](), width, report="file:///somewhere/report.html")
    assert max(len(line) for line in text.splitlines()) <= width


def test_a_missing_number_is_a_dash() -> None:
    text = printed(complete(onnx_ap=None), width=200)
    assert "ONNX AP is missing" in text
    assert "–" in next(line for line in text.splitlines() if "Accuracy lost" in line)


def test_the_broken_data_set_is_told_once() -> None:
    assert printed(broken_dataset(), width=200).count("2 of 31 expectations") == 1


def test_it_is_light_to_import() -> None:
    code = "import sys, hpe_tasks.report.summary; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "PIL", "jinja2", "onnx", "pandas"} & set(done.stdout.split())
