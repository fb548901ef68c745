"""The shell of the CI examples, run as GitHub's and GitLab's runners do: a passing, a refused and a broken model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import parse

import pytest
import yaml

from hpe_tasks.local.object_store import Server
from support.ci_examples import ci_example, github_lines, gitlab_lines
from support.tiny_inputs import tiny_settings

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(1800)]

Lines = Callable[[Any], list[tuple[str, bool]]]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny_settings(tmp_path_factory.mktemp("ci"))


def run_job(lines: list[tuple[str, bool]], folder: Path, environment: dict[str, str]) -> int:
    """Run a job as a runner does: after a step that failed only those that always run; the first failure's code."""
    failed = 0
    for shell, always in lines:
        if not failed or always:
            done = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", shell], cwd=folder, env=environment, check=False
            )
            failed = failed or done.returncode
    return failed


@pytest.mark.parametrize(("title", "lines"), [("GitHub Actions", github_lines), ("GitLab", gitlab_lines)])
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({}, 0, id="passed"),
        pytest.param({"gate.max_size_mb": 0.001}, 1, id="refused"),
        pytest.param({"gate.min_ap": 0.5}, 1, id="below the floor"),
        pytest.param({"model.checkpoint": "/nowhere/w.pth"}, 2, id="bad input"),
    ],
)
def test_a_job_ends_as_the_page_says(
    repository: Path,
    title: str,
    lines: Lines,
    changes: dict[str, Any],
    code: int,
    settings: dict[str, Any],
    s3_server: Server,
    tmp_path: Path,
) -> None:
    asked = {**settings, "destination.smoke_test": False, **changes}
    nested: dict[str, Any] = {}
    for key, value in asked.items():
        section, _, name = key.partition(".")
        nested = {**nested, section: {**nested.get(section, {}), name: value} if name else value}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(nested))
    environment = os.environ | dict(s3_server.environment) | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(repository),
        "HPE_WORKSPACE": str(tmp_path / "hpe-workspace"),
        "HPE_CACHE": str(tmp_path / "hpe-cache"),
        "GITHUB_RUN_ID": "17", "CI_JOB_ID": "17", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }  # fmt: skip
    job = lines(ci_example(repository, title))
    # The look in advance stops what has no chance.
    assert run_job(job[:1], tmp_path, environment) == (2 if code == 2 else 0)
    assert run_job(job[1:], tmp_path, environment) == code
    suite = parse(tmp_path / "hpe-junit.xml").getroot()[0]
    counted = {kind: int(suite.get(kind, "-1")) for kind in ("failures", "errors")}
    assert {kind for kind, number in counted.items() if number} == {0: set(), 1: {"failures"}, 2: {"errors"}}[code]
    result = json.loads((tmp_path / "hpe-result.json").read_text())
    (report,) = (tmp_path / "hpe-workspace").glob("runs/*/report/*.html")
    assert result["report"].endswith(report.name)
    if title == "GitHub Actions":
        assert (tmp_path / "summary.md").read_text().startswith(f"### {result['verdict']['title']}\n")
