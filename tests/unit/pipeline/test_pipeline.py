"""The pipeline object, and what is made of it."""

from __future__ import annotations

import ast
import inspect
import typing
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import pytest
from typer.main import get_command

from hpe_tasks.cli.pipelines import step_commands
from hpe_tasks.cli.run_summary import print_summary
from hpe_tasks.config.loading import load_config
from hpe_tasks.config.run import RunConfig
from hpe_tasks.errors import MissingInputError
from hpe_tasks.pipeline import pipelines
from hpe_tasks.pipeline.collected import records_of
from hpe_tasks.pipeline.listing import listed_pipelines
from hpe_tasks.pipeline.pipeline import Pipeline
from hpe_tasks.pipeline.pipelines import PIPELINES
from hpe_tasks.pipeline.requantize import REQUANTIZE
from hpe_tasks.pipeline.runs import Run, find_run, open_run
from hpe_tasks.pipeline.step import Step, step
from hpe_tasks.pipeline.steps.ladder import TRY_RUNGS
from hpe_tasks.records.base import Record
from hpe_tasks.records.inputs import FetchedDataset
from hpe_tasks.records.run import RunReport
from hpe_tasks.report.records import RunRecords
from hpe_tasks.storage.workspace import Scratch
from support.no_s3 import no_s3


def open_at(folder: Path, pipeline: str = REQUANTIZE.name, config: RunConfig | None = None) -> Run:
    workspace = (folder / "w").as_uri()
    config = config or load_config("sample")
    return open_run(config, workspace=workspace, cache=folder / "c", name="r", s3=no_s3, pipeline=pipeline)


LADDER = [step.name for step in TRY_RUNGS]


def test_what_the_command_line_reads_from_the_source_is_what_the_pipelines_hold() -> None:
    listed = [(one.name, one.command, one.summary, one.steps) for one in listed_pipelines()]
    assert listed == [
        (one.name, one.command, one.summary, tuple((step.name, step.summary) for step in one.steps))
        for one in PIPELINES
    ]


def test_every_step_has_a_command_of_its_own() -> None:
    from hpe_tasks.cli.app import app

    commands = getattr(get_command(app), "commands")  # noqa: B009 - a group has them
    names = step_commands(listed_pipelines())
    assert len(set(names.values())) == len(names) == sum(len(pipeline.steps) for pipeline in PIPELINES)
    for pipeline in PIPELINES:
        assert commands[pipeline.command].help == pipeline.summary
        for one in pipeline.steps:
            assert commands[names[pipeline.name, one.name]].help == one.summary
    assert names["hpe_requantize", "fetch_dataset"] == "fetch-dataset"
    assert names["hpe_retrain", "fetch_dataset"] == "retrain-fetch-dataset"
    # What trains outside of a run keeps its name.
    assert (names["hpe_retrain", "train"], "Train a network on its" in commands["train"].help) == (
        "retrain-train",
        True,
    )


def test_every_record_that_is_collected_has_a_field_of_its_kind() -> None:
    fields = typing.get_type_hints(RunRecords)
    for pipeline in PIPELINES:
        shown = [step for step in pipeline.steps if step.shown_as]
        assert {step.shown_as: fields[step.shown_as] for step in shown} == {s.shown_as: s.kind | None for s in shown}
        assert len({step.shown_as for step in shown}) == len(shown)
        assert all(step.title and step.summary.endswith(".") for step in pipeline.steps)


def test_the_documentation_names_every_step(repository: Path) -> None:
    page = (repository / "docs" / "pipeline.md").read_text()
    # The rungs of the ladder stand in the reference, which is made of them.
    assert [name for name in REQUANTIZE.by_name if name not in LADDER and f"`{name}`" not in page] == []


def test_what_a_step_waits_for_follows_from_what_it_needs() -> None:
    assert {step.name: [other.name for other in REQUANTIZE.upstream(step)] for step in REQUANTIZE.steps} == {
        "preflight": [],
        "fetch_checkpoint": ["preflight"],
        "fetch_dataset": ["preflight"],
        "validate_dataset": ["fetch_dataset"],
        "evaluate_fp32": ["fetch_checkpoint", "validate_dataset"],
        "check_fp32": ["evaluate_fp32"],
        LADDER[0]: ["check_fp32"],
        **{rung: ["check_fp32", before] for before, rung in pairwise(LADDER)},
        "choose_recipe": ["check_fp32", *LADDER],
        "quantize": ["check_fp32", "choose_recipe"],
        "export_onnx": ["quantize"],
        "evaluate_quantized": ["export_onnx"],
        "compare_accuracy": ["evaluate_quantized"],
        "gate": ["compare_accuracy"],
        "publish": ["gate"],
        "smoke_test_lambda": ["publish"],
        "promote": ["publish", "smoke_test_lambda"],
        "diagnose_layers": ["export_onnx", "gate"],
        "report": ["fetch_checkpoint", "validate_dataset", "promote", "diagnose_layers"],
    }


@step(FetchedDataset, "Data", found=lambda _: "0" * 32)
def fetch_toys(run: Run, _: Scratch) -> FetchedDataset:
    """Fetch toys."""
    return FetchedDataset(source=run.name, digest="0" * 64, num_files=1, size_bytes=1)


@step(RunReport, "Toys", needs=(fetch_toys,), reuse=False)
def count_toys(run: Run, scratch: Scratch) -> RunReport:
    """Count toys."""
    file = scratch.path / "report.html"
    file.write_text(run.result(fetch_toys).source)
    return RunReport(html=scratch.artifact(file))


@step(RunReport, "Show", needs=(fetch_toys,), shown_as="toys")
def show_toys(run: Run, scratch: Scratch) -> RunReport:
    """Show toys."""
    return count_toys.body(run, scratch)


TOYS = Pipeline("toys", "play", "Play with toys.", (fetch_toys, count_toys))


@pytest.mark.parametrize(
    ("order", "says"),
    [
        pytest.param((count_toys, fetch_toys), "count_toys stands before fetch_toys", id="order"),
        pytest.param((fetch_toys, fetch_toys), "two steps that are called fetch_toys", id="twice"),
    ],
)
def test_steps_that_could_not_make_a_run_make_no_pipeline(order: tuple[Step[Record], ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Pipeline("toys", "play", "", order)


def test_a_record_that_no_report_has_a_place_for_is_not_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "PIPELINES", (Pipeline("toys", "play", "", (fetch_toys, show_toys)),))
    with pytest.raises(ValueError, match="show_toys is shown as 'toys', which is no field"):
        records_of(open_at(tmp_path, "toys"))


def test_a_second_pipeline_has_runs_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = open_at(tmp_path), open_at(tmp_path, TOYS.name)
    assert first.name != second.name
    fetch_toys(second)
    count_toys(second)
    found = find_run(second.name, workspace=(tmp_path / "w").as_uri(), cache=tmp_path / "c", s3=no_s3)
    assert found.pipeline == "toys"
    assert found.result(count_toys) == second.result(count_toys)
    with pytest.raises(MissingInputError, match="belongs to the pipeline 'toys'"):
        records_of(found)
    monkeypatch.setattr(pipelines, "PIPELINES", (*PIPELINES, TOYS))
    assert [(one.name, one.state) for one in records_of(found).steps] == [
        ("fetch_toys", "done"),
        ("count_toys", "done"),
    ]


def test_a_pipeline_that_judges_nothing_is_finished_when_its_steps_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipelines, "PIPELINES", (*PIPELINES, TOYS))
    run = open_at(tmp_path, TOYS.name)
    fetch_toys(run)
    assert not print_summary(run)
    assert "Not finished  (run " in (said := capsys.readouterr().out)
    assert "The next step is count_toys." in said
    count_toys(run)
    assert print_summary(run)
    assert "Done  (run " in (said := capsys.readouterr().out)
    assert "Every step is done." in said
    assert "Report" not in said


def test_a_run_that_names_no_pipeline_is_of_the_first(tmp_path: Path) -> None:
    run = open_at(tmp_path)
    file = tmp_path / "w" / run.prefix / "run.json"
    file.write_text(file.read_text().replace(',\n "pipeline": "hpe_requantize"', ""))
    assert "pipeline" not in file.read_text()
    found = find_run(run.name, workspace=(tmp_path / "w").as_uri(), cache=tmp_path / "c", s3=no_s3)
    assert found.pipeline == REQUANTIZE.name


def test_a_skip_rule_holds_for_what_needs_the_step(tmp_path: Path) -> None:
    run = open_at(tmp_path, config=load_config("sample", overrides={"destination.smoke_test": False}))
    skipped = {one.name: REQUANTIZE.skip_reason(one, run) for one in REQUANTIZE.steps}
    assert {name: reason for name, reason in skipped.items() if reason} == {
        **dict.fromkeys([*LADDER, "choose_recipe"], "recipe.search is off."),
        "smoke_test_lambda": "destination.smoke_test is off.",
    }


@pytest.mark.parametrize("one", REQUANTIZE.steps, ids=lambda one: one.name)
def test_a_step_reads_what_it_needs(one: Step[Record]) -> None:
    """Directly or in turn: otherwise it could read what was made of other inputs, or not be made again."""

    def needed_by(step: Step[Record]) -> set[str]:
        return {name for other in step.needs for name in (other.name, *needed_by(other))}

    body = ast.parse(dedent(inspect.getsource(one.body)))
    calls = [node for node in ast.walk(body) if isinstance(node, ast.Call) and ast.unparse(node.func) == "run.result"]
    assert {ast.unparse(call.args[0]) for call in calls} <= needed_by(one)


def test_steps_are_listed_once(repository: Path) -> None:
    """All of them stand together in the pipeline, and where the package of steps gives them its name; nowhere else.

    Others name the few steps that they ask, whether as text, as `steps.gate` or by import.
    """
    # Those of the ladder are made of its rungs.
    names, listing = set(REQUANTIZE.by_name) - set(LADDER), []
    few = 3 * len(names) // 4
    for path in [*(repository / "hpe_tasks").rglob("*.py"), *(repository / "plugins").rglob("*.py")]:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
        texts = {str(n.value) for n in nodes if isinstance(n, ast.Constant)}
        asked = {n.attr for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "steps"}
        imports = [n for n in nodes if isinstance(n, ast.ImportFrom) and "pipeline.steps" in (n.module or "")]
        asked |= {alias.name for n in imports for alias in n.names}
        assert len(names & texts) <= 3, path
        if len(names & asked) > few:
            assert names <= asked
            listing.append(str(path.relative_to(repository)))
    assert sorted(listing) == ["hpe_tasks/pipeline/requantize.py", "hpe_tasks/pipeline/steps/__init__.py"]
