"""`hpe runs list|show|compare` and `hpe show --junit`, as people and programs start them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from hpe_tasks.cli.app import app
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import ConfigError
from hpe_tasks.pipeline import steps
from hpe_tasks.pipeline.runs import Run, open_run
from support import run_cases
from support import sample_records as records
from support.catalogued import leave
from support.no_s3 import no_s3

Hpe = Callable[..., Any]


@pytest.fixture
def hpe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hpe:
    """The command, on a workspace with a run whose gate refused, and one that goes on."""
    workspace, cache, case = (tmp_path / "workspace").as_uri(), tmp_path / "cache", run_cases.gate_failed()

    def run(name: str, **changes: Any) -> Run:
        config: RunConfig = records.run_config(**changes)
        return open_run(config, workspace=workspace, cache=cache, name=name, s3=no_s3)

    friday, monday = run("friday"), run("monday", seed=1)
    leave(friday, steps.evaluate_fp32, case.fp32)
    leave(friday, steps.evaluate_quantized, case.quantized_evaluation)
    leave(friday, steps.gate, case.decision)
    leave(monday, steps.evaluate_fp32, run_cases.complete().fp32)
    monkeypatch.setenv("HPE_WORKSPACE", workspace)
    monkeypatch.setenv("HPE_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def csv_of(result: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result.stdout)))


def failed_checks() -> tuple[str, ...]:
    decision = run_cases.gate_failed().decision
    assert decision is not None
    return tuple(check.title for check in decision.failed)


def test_runs_are_listed_as_table_json_and_csv(hpe: Hpe) -> None:
    table = hpe("runs", "list")
    assert table.exit_code == 0, table.output
    assert all(text in table.stdout for text in ("2 runs", "friday", "monday", "refused", "unfinished"))
    (refused,) = json.loads(hpe("runs", "list", "--verdict", "gate_failed", "--json").stdout)
    assert refused["name"].startswith("friday")
    assert tuple(refused["failed_checks"]) == failed_checks()
    rows = csv_of(hpe("runs", "list", "--csv"))
    assert {row["verdict"] for row in rows} == {"gate_failed", "unfinished"}
    assert float(next(row for row in rows if row["verdict"] == "gate_failed")["int8"]) == refused["int8"]


def test_a_run_is_shown_as_table_json_and_csv_and_its_exit_code_tells_the_verdict(hpe: Hpe) -> None:
    told = {form: hpe("runs", "show", "friday", *form) for form in ((), ("--json",), ("--csv",))}
    assert [one.exit_code for one in told.values()] == [1, 1, 1]
    assert failed_checks()[0] in told[()].stdout
    assert json.loads(told["--json",].stdout)["verdict"]["kind"] == "gate_failed"
    (row,) = csv_of(told["--csv",])
    assert (row["verdict"], row["failed_checks"]) == ("gate_failed", " ".join(failed_checks()))
    assert isinstance(hpe("runs", "show", "friday", "--json", "--csv").exception, ConfigError)


def test_runs_are_compared_as_table_json_and_csv(hpe: Hpe) -> None:
    table = hpe("runs", "compare", "friday", "monday")
    assert table.exit_code == 0, table.output
    assert "seed" in table.stdout
    told = json.loads(hpe("runs", "compare", "friday", "monday", "--json").stdout)
    (seeds,) = (row for section in told["sections"] for row in section["rows"] if row["label"].endswith("seed"))
    assert "1" in [str(value) for value in seeds["values"]]
    rows = csv_of(hpe("runs", "compare", "friday", "monday", "--csv"))
    assert any("1" in row.values() and any((value or "").endswith("seed") for value in row.values()) for row in rows)


def test_the_gates_checks_are_written_as_junit(hpe: Hpe, tmp_path: Path) -> None:
    file = tmp_path / "gate.xml"
    assert hpe("show", "--run", "friday", "--junit", str(file)).exit_code == 1
    cases = ElementTree.parse(file).getroot().iter("testcase")
    assert sum(case.find("failure") is not None for case in cases) >= len(failed_checks())
