"""A further requirement of the gate takes two files: its limit among the settings, and the object that judges it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support.further import FURTHER, copy_of

LOOK = """
import json
from support.run_cases import complete, replace
from hpe_tasks.config.help import describe_setting
from hpe_tasks.gate.decision import decide
from hpe_tasks.config.loading import load_config
from hpe_tasks.report.advice import next_steps

config, run = load_config("sample", overrides={"gate.max_opset": "13"}), complete()
decision = decide(config.gate, run.fp32, run.quantized_evaluation, run.exported)
off = decide(run.config.gate, run.fp32, run.quantized_evaluation, run.exported)
print(json.dumps({
    "help": describe_setting("gate.max_opset"),
    "reason": decision.reason,
    "advice": [advice.setting for advice in next_steps(replace(run, config=config, decision=decision))],
    "off": [check.name for check in off.checks],
}))
"""


def test_a_further_requirement_takes_two_files(repository: Path, tmp_path: Path) -> None:
    copy_of(repository, tmp_path, "hpe_tasks", "tests/support")
    FURTHER["gate check"].add_to(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{tmp_path / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["help"] == "Latest ONNX opset of the exported file. (at least 1)"
    assert told["reason"] == "Opset 17 is above 13"
    assert told["advice"] == ["gate.max_opset=17"]
    assert "max_opset" not in told["off"]
