"""A further requirement of the gate takes two files: its limit among the settings, and the object that judges it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

SETTING = """
    max_opset: int | None = Field(default=None, ge=1, description="Latest ONNX opset of the exported file.")

    @model_validator(mode="before")
    @classmethod
    def _without_metric("""

REQUIREMENT = '''

class OldEnough(Requirement):
    """That runtimes which are some years old can read the file."""

    title = "Opset of the exported file"
    comparison = "at_most"
    unit = "layers"
    names = ("max_opset",)

    @override
    def subject(self, evidence: Evidence) -> str:
        return "Opset"

    @override
    def limit(self, evidence: Evidence) -> float | None:
        return evidence.limits.max_opset

    @override
    def observe(self, evidence: Evidence, limit: float) -> Observation:
        return Observation(evidence.exported.opset)

    @override
    def advise(self, run: Situation) -> Iterator[Advice]:
        yield Advice("Use a younger runtime.", "gate.max_opset=17")


CHECKS: tuple[Requirement, ...] = (FileSize(), SpeedAgainstFp32(), OldEnough())
'''

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
    for name in ("hpe_tasks", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "integration", "unit", "e2e")
        shutil.copytree(repository / name, tmp_path / name, ignore=ignored)
    for file, old, new in (
        (
            "config/gate.py",
            '\n    @model_validator(mode="before")\n    @classmethod\n    def _without_metric(',
            SETTING,
        ),
        (
            "gate/checks/cost.py",
            "\n\nCHECKS: tuple[Requirement, ...] = (FileSize(), SpeedAgainstFp32())\n",
            REQUIREMENT,
        ),
    ):
        path = tmp_path / "hpe_tasks" / file
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
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
