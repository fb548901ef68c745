"""What a shell gets to complete, asked for as the shells' own scripts ask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        pytest.param("hpe mod", {"models"}, id="a command"),
        pytest.param("hpe models ", {"list", "show", "compare", "retire"}, id="its own commands"),
        pytest.param("hpe run --pres", {"--preset"}, id="an option"),
        pytest.param("hpe run --preset pose_resnet_50", {"pose_resnet_50_mpii", "pose_resnet_50"}, id="a preset"),
    ],
)
def test_a_shell_completes_commands_options_and_presets(tmp_path: Path, typed: str, offered: set[str]) -> None:
    asked = {"_HPE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = subprocess.run(
        [Path(sys.executable).with_name("hpe")],
        env={**os.environ, **asked},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert offered <= set(done.stdout.split())
    assert done.stderr == ""
