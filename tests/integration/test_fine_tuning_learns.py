"""A network that was trained on one style of pictures gets better on another when it is tuned on few of those."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.long]


def test_few_images_of_another_style_make_it_better_there(repository: Path) -> None:
    command = [sys.executable, str(repository / "benchmarks" / "fine_tuning.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
    assert done.returncode == 0, done.stderr
    measured = {one["network"]: one for one in json.loads(done.stdout)["measured"]}
    before, after, control = (measured[name] for name in ("before", "after", "control"))
    assert before["first"] > before["other"] + 0.2, "the other style is nothing new to it"
    assert after["other"] > before["other"] + 0.1
    assert after["other"] > control["other"] + 0.1
