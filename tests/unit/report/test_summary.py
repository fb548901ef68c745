from __future__ import annotations

import io
import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest
from rich.console import Console

from hpe_tasks.records.evaluation import EvaluationReport, FailedImage, QuantizedEvaluation
from hpe_tasks.records.preflight import Preflight
from hpe_tasks.report.as_json import summary_json
from hpe_tasks.report.records import RunRecords
from hpe_tasks.report.summary import record_table, summary_table
from support.run_cases import (
    HOSTILE,
    STATES,
    as_published,
    below_floor,
    bottom_up,
    broken_dataset,
    complete,
    detected,
    gate_failed,
    inconclusive,
    mpii,
    only_config,
    step_failed,
    unfit,
)


def printed(
    records: RunRecords | EvaluationReport | QuantizedEvaluation | Preflight, width: int = 120, **options: str
) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    if not isinstance(records, RunRecords):
        console.print(record_table("evaluate", records))
    else:
        console.print(summary_table(records, **options))  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_published_run_shows_what_a_person_asks_for() -> None:
    text = printed(complete(), report="/runs/report.html")
    assert "Published sample-pose 3f9c2a7b41d0e856" in text
    lines = {line.strip().split("  ")[0]: line for line in text.splitlines()}
    cells = {name: line.split()[1:] for name, line in lines.items()}
    assert cells["AP"] == ["0.681", "0.672", "0.668"]
    assert cells["Persons"] == ["312"] * 3
    assert cells["Images"] == ["156"] * 3
    assert all(part in lines["Accuracy lost by quantization"] for part in ("0.013", "≤ 0.020", "passed"))
    assert all(part in lines["Arithmetic that runs in int8"] for part in ("98.6 %", "≥ 95.0 %"))
    assert all(
        part in lines["Agreement of int8 kernels with the unoptimized graph"] for part in ("72.5 dB", "≥ 40.0 dB")
    )
    assert "Measured on a CPU with x86_64, avx2, avx512_vnni." in text
    flat = " ".join(text.split())
    assert (
        "Speed, 1 thread 3.56× as fast as FP32 (95 % interval 3.51× to 3.60×) median 38.7 ms (FP32 138 ms), "
        "p95 52.3 ms (141 ms) Speed, 2 threads 2.97× as fast as FP32"
    ) in flat
    assert "Timed on AMD EPYC 9R14 (x86_64, avx2, avx512_vnni), onnxruntime 1.31.0" in flat
    assert "FP32 2.31 MB, ONNX int8 0.71 MB (3.2 times smaller)" in text
    assert "s3://hpe-models/registry/models/sample-pose/versions/3f9c2a7b41d0e856/manifest.json" in text
    told = {line.split("  ")[0]: line for line in text.splitlines()}
    assert "Ed25519, public key with the SHA-256" in told["Signature"]
    assert told["Smoke test"].endswith("6 of 6 people in 3 golden images, OKS at least 0.970")
    assert told["Lambda package"].endswith("88.1 MB unzipped, 29.3 MB zipped; first answer after 271 ms on Python 3.13")
    assert told["Function's CPU"].endswith("x86_64, avx2, avx512_vnni")
    assert told["Channel"].endswith("staging of sample-pose in s3://hpe-models/registry")
    assert "/runs/report.html" in text
    assert "quick look" not in text


def test_a_failed_gate_names_the_checks_and_the_subset() -> None:
    text = printed(gate_failed(), width=200)
    assert "Not published: the gate failed" in text
    assert text.count("FAILED") == 8
    assert "ONNX AP 0.574 is below 0.600" in text
    assert text.partition("Why the gate failed")[0].count("quick look") == 3
    assert "Published" not in text


def test_an_inconclusive_gate_says_how_many_images_would_tell() -> None:
    text = printed(inconclusive(), width=200)
    assert "Not published: the gate is inconclusive" in text
    assert "Why the gate could not tell" in text
    assert re.search(r"Accuracy lost by quantization +0.013 \[0.002, 0.024\] +≤ 0.020 +inconclusive", text)
    assert "images would tell" in text
    assert "FAILED" not in text


def test_a_checkpoint_below_the_floor_shows_what_mends_it() -> None:
    text = " ".join(printed(below_floor()).split())
    assert "Stopped before quantization: FP32 is below the gate's floor" in text
    assert "AP 0.02 as configured; 0.61 when the image is BGR: set model.channel_order=bgr" in text
    assert "What to do: Nothing was quantized. Start again with --set model.channel_order=bgr." in text
    assert re.search(r"the image is BGR +0.612 +model.channel_order=bgr", text)
    assert re.search(r"left and right joints are swapped +– ", text)
    assert text.count("below 0.600") == 1


def console(width: int, *, terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)


def as_run(width: int, *, terminal: bool, records: RunRecords | None = None, **options: Any) -> list[str]:
    """The lines that `hpe run` prints."""
    where = console(width, terminal=terminal)
    where.print(summary_table(records or gate_failed(), report="file:///r/report.html", **options), soft_wrap=True)
    assert isinstance(where.file, io.StringIO)
    return where.file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "terminal"), [(80, True), (120, True), (80, False)], ids=["80", "120", "piped"])
def test_a_failed_gate_ends_with_the_reasons_and_the_command_to_try(width: int, terminal: bool) -> None:
    lines = as_run(width, terminal=terminal)
    why, then, first = (lines.index(title) for title in ("Why the gate failed", "What to try next", "Try first"))
    assert lines.index("Gate") < why < then < first == len(lines) - 2
    # Reasons have the whole width, break between words, and stand on one line where a program reads.
    reasons = lines[why + 1 : then - 1]
    text = " ".join(line.strip() for line in reasons)
    assert "Accuracy of the exported file: ONNX AP 0.574 is below 0.600 (measured on a subset: 40 images" in text
    if terminal:
        assert max(map(len, lines[:-1])) <= width
        assert max(map(len, reasons)) > width - 15
    else:
        decision = gate_failed().decision
        assert decision is not None
        assert len(reasons) == sum(not check.passed for check in decision.checks)
    assert lines[then + 1].startswith("  1. Let the pipeline look for the cheapest recipe that passes")
    assert "     recipe.search=first" in lines[then + 2 : first]
    assert "     recipe.cross_layer_equalization=true" in lines[then + 2 : first]
    assert lines[-1].startswith("hpe run --preset sample --set recipe.granularity=per_tensor")


def test_a_run_of_the_dag_ends_with_its_own_command() -> None:
    last = as_run(80, terminal=True, launcher="make")[-1]
    assert last.startswith("make run CONF='{")
    assert json.loads(shlex.split(last)[2].removeprefix("CONF="))["recipe.granularity"] == "per_tensor"


def test_too_few_persons_lead_to_the_whole_split() -> None:
    run = complete()
    assert run.onnx is not None
    config = run.config.model_copy(update={"dataset": run.config.dataset.model_copy(update={"min_persons": 999})})
    check = run.decision.checks[0].model_copy(update={"passed": False}) if run.decision else None
    assert check is not None
    assert run.decision is not None
    decision = run.decision.model_copy(update={"passed": False, "checks": (check, *run.decision.checks[1:])})
    lines = as_run(120, terminal=False, records=replace(run, config=config, decision=decision))
    assert "     dataset.min_persons=312" in lines
    assert not any("cross_layer" in line for line in lines)


def test_a_failed_step_ends_with_the_reason() -> None:
    lines = as_run(80, terminal=True, records=step_failed())
    assert lines[-1] == "What to do: Write the model as ONNX with opset 13 or later."
    assert lines[-3].startswith("export_onnx failed: ")


@pytest.mark.parametrize("state", STATES)
def test_json_is_whole_and_has_no_numbers_that_json_lacks(state: str) -> None:
    records = STATES[state]()
    if records.fp32 is not None:
        records = replace(records, fp32=records.fp32.model_copy(update={"images_per_second": math.inf}))
    told = json.loads(summary_json(records, report="file:///r"), parse_constant=pytest.fail)
    assert {field.name for field in fields(RunRecords)} | {"verdict", "next_steps", "report"} == set(told)
    refused = records.decision is not None and not records.decision.passed
    assert bool(told["next_steps"]) is refused
    assert all(step["command"] is None or step["setting"] for step in told["next_steps"])


def test_a_failed_step_shows_message_and_hint() -> None:
    text = printed(step_failed())
    assert "Failed at export_onnx" in text
    assert HOSTILE in text
    assert "What to do: Write the model as ONNX" in text
    assert text.count("not measured") == 2


def test_a_failed_preflight_lists_every_failure_once() -> None:
    text = " ".join(printed(unfit(), width=80).split())
    assert "Failed at preflight" in text
    assert "Preflight: 2 failed, 1 to look at of 4 checks" in text
    for said in ("The bucket 'nowhere' does not exist.", "What to do: Create it", "model.architecture", "1.1 GB free"):
        assert text.count(said) == 1
    warned = printed(complete())
    assert "Preflight: 1 to look at of 2 checks" in warned
    assert "What to do: Free some space" in warned
    assert "all is well" in printed(unfit().preflight.model_copy(update={"checks": ()}))


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


def test_pckh_is_shown_as_its_literature_does_with_the_number_of_persons() -> None:
    text = printed(mpii(), width=160)
    cells = {line.strip().split("  ")[0]: line.split()[-3:] for line in text.splitlines()}
    assert cells["Mean"] == ["83.3", "81.8", "80.3"]
    assert cells["Shoulder"] == ["100.0"] * 3
    assert cells["Hip"] == ["–"] * 3
    assert cells["Mean@0.1"] == ["31.3", "29.8", "28.3"]
    assert cells["Mean at exactly 0.1"] == ["28.3", "26.8", "25.3"]
    assert cells["Joints"] == ["66"] * 3
    assert cells["Persons"] == ["5"] * 3
    assert "Mean@0.1 is computed at the threshold 0.11" in text
    assert "Note: 5 persons." in text
    assert "PCKh drop from FP32 to ONNX 3.0 is above 1.0 (5 persons)" in text


def test_published_figures_stand_beside_the_run() -> None:
    lines = [" ".join(line.split()) for line in printed(as_published(), width=160).splitlines()]
    assert "FP32 0.364 0.363 within the tolerance of 0.005" in lines
    assert "W8A8 0.359 0.348 outside the tolerance of 0.005" in lines
    text = " ".join(printed(bottom_up(), width=160).split())
    assert "FP32 0.364 0.362 not comparable: val instead of val2014; 156 of 40,504 images" in text
    assert "Published:" not in printed(complete())


def test_unreadable_images_and_warnings_are_told() -> None:
    text = printed(bottom_up(), width=160)
    assert next(line for line in text.splitlines() if "Unreadable images" in line).split()[-3:] == ["1"] * 3
    assert "Note: 1 of 156 images could not be measured." in text
    assert "Data set: Calibration images are copies of evaluation images. (2)" in printed(detected())


def test_one_measurement_lists_joints_and_what_could_not_be_read() -> None:
    run = mpii()
    assert run.fp32 is not None
    many = tuple(FailedImage(name=f"images/{i}.jpg", reason="is cut off") for i in range(9))
    protocol = run.fp32.fingerprint.model_copy(update={"num_images": 40})
    text = printed(run.fp32.model_copy(update={"failed_images": many, "fingerprint": protocol}))
    assert "fp32: 5 persons in 40 images of valid, 9 of 40 images could not be measured" in text
    assert "PCKh left wrist" in text
    assert text.count("is cut off") == 6
    assert "… 9 images in all" in text
    assert "AP left wrist" in printed(complete().fp32 or run.fp32)


def test_it_is_light_to_import() -> None:
    code = "import sys, hpe_tasks.report.summary; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "PIL", "jinja2", "onnx", "pandas"} & set(done.stdout.split())


def test_a_run_without_a_speed_says_nothing_of_it() -> None:
    assert "Speed" not in printed(complete(latency=None))


def test_the_speed_of_one_step_is_readable() -> None:
    evaluated = complete().quantized_evaluation
    assert evaluated is not None
    text = " ".join(printed(evaluated).split())
    assert "Speed, 1 thread 3.56× as fast as FP32" in text
    assert "Timed on AMD EPYC 9R14" in text
    assert "speed_ups" not in text


def test_what_each_step_leaves_is_a_table_for_people() -> None:
    records = complete()
    assert records.quantized_evaluation is not None
    lines = printed(records.quantized_evaluation).splitlines()
    rows = {line.split("  ")[0].strip(): line.split()[-2:] for line in lines if line.strip()}
    assert rows["AP"] == ["0.672", "0.668"]
    assert rows["Persons"] == ["312", "312"]
    assert any(line.startswith("Speed, 1 thread   3.56× as fast as FP32") for line in lines)
    for record in (records.validation, records.quantized, records.exported, records.comparison, records.published):
        assert record is not None
        text = printed(record)  # type: ignore[arg-type]
        # Words and figures: neither Python's way of writing them, nor what has no value.
        assert not re.search(r"[\[({]'|=|None|False|True|\(\)|[a-z]_[a-z]+  ", text.replace("tf_enhanced", "")), text
        assert len(text.splitlines()) < 30
