"""The examples of docs/ci.md: as YAML, and the lines of shell in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_INSTALLS = "python -m pip install"


def ci_example(repository: Path, title: str) -> Any:
    """The YAML below a heading of the page."""
    text = (repository / "docs/ci.md").read_text()
    found = re.search(rf"^## {title}\n+```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert found, f"docs/ci.md has no example for {title}"
    return yaml.safe_load(found[1])


def github_lines(example: Any) -> list[tuple[str, bool]]:
    """The shell of each step that installs nothing, and whether it runs whatever came before."""
    steps = [step for step in example["jobs"]["quantize"]["steps"] if "run" in step]
    return [(step["run"], step.get("if") == "always()") for step in steps if _INSTALLS not in step["run"]]


def gitlab_lines(example: Any) -> list[tuple[str, bool]]:
    """The lines of the job's script."""
    return [(line, False) for line in example["quantize"]["script"]]
