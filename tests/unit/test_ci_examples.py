"""The CI examples of the documentation are what GitHub and GitLab take, and ask `hpe` for what it has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Literal
from xml.etree.ElementTree import parse

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from hpe_tasks.cli.app import app
from hpe_tasks.errors import ConfigError
from support.ci_examples import ci_example, github_lines, gitlab_lines
from support.ci_schemas import ci_validator


@pytest.mark.parametrize(("title", "kind"), [("GitHub Actions", "github-workflow"), ("GitLab", "gitlab-ci")])
def test_an_example_is_valid(repository: Path, title: str, kind: Literal["github-workflow", "gitlab-ci"]) -> None:
    example = ci_example(repository, title)
    if True in example:
        # YAML 1.1 reads `on` as a truth value, and GitHub does not.
        example["on"] = example.pop(True)
    assert [error.message for error in ci_validator(kind).iter_errors(example)] == []


def test_the_schemas_refuse_what_is_wrong(repository: Path) -> None:
    github, gitlab = ci_example(repository, "GitHub Actions"), ci_example(repository, "GitLab")
    github["on"] = github.pop(True)
    github["jobs"]["quantize"]["steps"][0]["wiht"] = {}
    gitlab["quantize"]["artifacts"]["when"] = "sometimes"
    assert list(ci_validator("github-workflow").iter_errors(github))
    assert list(ci_validator("gitlab-ci").iter_errors(gitlab))


def test_commands_and_options_are_there(repository: Path) -> None:
    examples = [
        *github_lines(ci_example(repository, "GitHub Actions")),
        *gitlab_lines(ci_example(repository, "GitLab")),
    ]
    calls = [line for text, _ in examples for line in re.split(r"(?<!\\)\n", text) if line.startswith("hpe ")]
    assert len(calls) == 4
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for call in calls:
        command, *words = shlex.split(call.replace("\\\n", " ").partition(">")[0])[1:]
        known = {name for parameter in commands[command].params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, call


def test_artifacts_are_where_the_run_leaves_them(repository: Path) -> None:
    github = ci_example(repository, "GitHub Actions")["jobs"]["quantize"]
    gitlab = ci_example(repository, "GitLab")["quantize"]
    (upload,) = (step for step in github["steps"] if "upload-artifact" in step.get("uses", ""))
    assert upload["with"]["path"].split() == gitlab["artifacts"]["paths"]
    assert github["env"]["HPE_WORKSPACE"].endswith("/hpe-workspace")
    assert gitlab["variables"]["HPE_WORKSPACE"].endswith("/hpe-workspace")


def test_bad_input_is_told_in_junit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPE_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("HPE_CACHE", str(tmp_path / "cache"))
    junit = tmp_path / "results" / "junit.xml"
    words = ["run", "--preset", "sample", "--set", "gate.min_app=1", "--junit", str(junit)]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError)
    [error] = parse(junit).getroot().iter("error")
    assert "gate.min_app" in str(error.get("message"))
