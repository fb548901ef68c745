"""No dependency of a stored result is forgotten: what a step really runs and reads is what its key covers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.tiny_inputs import tiny_bottom_up_settings, tiny_settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TRACED = """
import json, sys, threading
from functools import wraps
from pathlib import Path

import hpe_tasks
from hpe_tasks.errors import BelowFloorError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.reach import Source, reach_of
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.runs import open_run
from hpe_tasks.config.loading import load_config

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
package = Path(hpe_tasks.__file__).parent
modules = {str(module.path): name for name, module in Source(package).modules.items()}
ran, read = set(), set()


# A trace function is told of calls of Python functions alone; one for profiles, of every return and C function as well.
def called(frame, event, _):
    if frame.f_code.co_filename in modules:
        ran.add(modules[frame.f_code.co_filename])


def opened(event, arguments):
    path = Path(str(arguments[0])) if event == "open" else None
    if path is not None and package in path.parents and "__pycache__" not in path.parts and path.suffix != ".py":
        read.add(str(path))


def traced(body):
    @wraps(body)
    def run(*arguments):
        ran.clear(), read.clear()
        threading.settrace(called), sys.settrace(called)
        try:
            return body(*arguments)
        finally:
            sys.settrace(None), threading.settrace(None)
    return run


def run_of(**changes):
    overrides = {key: value for key, value in {**settings, **changes}.items() if key != "preset"}
    config = load_config(settings["preset"], overrides=overrides)
    return open_run(config, workspace=(folder / "w").as_uri(), cache=folder / "c", name="r", s3=lambda: None)


sys.addaudithook(opened)
# A step's own body begins after these were asked; in a rung's body those of the steps that it runs are asked as well.
asked_before = {step.accept.__module__ for step in REQUANTIZE.steps}
told = {}
for changes in ({}, {"gate.min_ap": 0.5}, {"recipe": "auto", "seed": 1}):
    run = run_of(**changes)
    for step in REQUANTIZE.ordered:
        if step is steps.publish or ("recipe" in changes and step is steps.quantize):
            break
        if step is steps.preflight or REQUANTIZE.skip_reason(step, run):
            continue
        covered = reach_of(step.body)
        ran.clear()
        object.__setattr__(step, "body", traced(step.body))
        try:
            step(run)
        except BelowFloorError:
            pass
        finally:
            object.__setattr__(step, "body", step.body.__wrapped__)
        if ran and ("recipe" not in changes or step.before_choice):
            name = step.name + (" below the floor" if "gate.min_ap" in changes else "")
            told[name] = {
                "ran": sorted(ran),
                "forgotten": sorted(ran - covered.modules - asked_before),
                "unread": sorted(read - {str(file) for file in covered.files}),
            }
        if "gate.min_ap" in changes and step is steps.check_fp32:
            break
print(json.dumps(told))
"""


def trace(folder: Path, settings: dict[str, Any], repository: Path) -> dict[str, dict[str, list[str]]]:
    done = subprocess.run(
        [sys.executable, "-c", TRACED, str(folder / "traced"), json.dumps(settings)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(repository)},
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, dict[str, list[str]]] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize(
    "settings_in",
    [
        pytest.param(tiny_settings, id="top-down"),
        pytest.param(tiny_bottom_up_settings, id="bottom-up", marks=pytest.mark.long),
    ],
)
def test_what_a_step_runs_and_reads_is_in_its_key(settings_in: Any, tmp_path: Path, repository: Path) -> None:
    settings = settings_in(tmp_path) | {"gate.min_ap": 0.0}
    told = trace(tmp_path, settings, repository)
    assert {name: found["forgotten"] for name, found in told.items() if found["forgotten"]} == {}
    assert {name: found["unread"] for name, found in told.items() if found["unread"]} == {}
    # Something has really been looked at.
    assert set(told) == {
        *("fetch_checkpoint", "fetch_dataset", "validate_dataset", "evaluate_fp32", "check_fp32", "quantize"),
        *("export_onnx", "evaluate_quantized", "compare_accuracy", "gate", "check_fp32 below the floor"),
        *("try_min_max", "choose_recipe"),
    }
    assert "hpe_tasks.quantization.torch_backend" in told["quantize"]["ran"]
    assert "hpe_tasks.diagnosis" in told["check_fp32 below the floor"]["ran"]
