"""Commands that are made of the pipelines: one that runs all of a pipeline, and one for each of its steps."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from hpe_tasks.cli.options import (
    EXIT_GATE_FAILED,
    ConfigOption,
    JsonOption,
    JunitOption,
    PresetOption,
    RunOption,
    SetOption,
    VerboseOption,
    exit_code,
    print_json,
    read_config,
)
from hpe_tasks.cli.run_summary import StderrWatch, print_summary
from hpe_tasks.pipeline.listing import ListedPipeline, listed_pipelines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hpe_tasks.pipeline.pipeline import Pipeline
    from hpe_tasks.pipeline.runs import Run


_OTHER_COMMANDS = ("train",)
"""Commands of this name are no step of a run."""


def add_pipeline_commands(app: typer.Typer) -> None:
    """Add the commands of all pipelines, as `step_commands` names them."""
    names = step_commands(listed_pipelines())
    for pipeline in listed_pipelines():
        _add_run(app, pipeline)
        for step, summary in pipeline.steps:
            called = names[pipeline.name, step]
            if step in pipeline.sharded:
                _add_sharded_step(app, pipeline, step, called, summary)
            else:
                _add_step(app, pipeline, step, called, summary, "Rungs" if step in pipeline.rungs else "Steps")


def step_commands(pipelines: Sequence[ListedPipeline]) -> dict[tuple[str, str], str]:
    """The command of each pipeline's steps.

    It is called as the step; where an earlier pipeline has a step of that name, or another command has it, with the
    pipeline's own command before it: `retrain-fetch-dataset`.
    """
    names: dict[tuple[str, str], str] = {}
    taken = set(_OTHER_COMMANDS)
    for pipeline in pipelines:
        for step, _ in pipeline.steps:
            command = step.replace("_", "-")
            names[pipeline.name, step] = f"{pipeline.command}-{command}" if command in taken else command
        taken |= {step.replace("_", "-") for step, _ in pipeline.steps}
    return names


def _add_run(app: typer.Typer, listed: ListedPipeline) -> None:
    def command(
        preset: PresetOption = None,
        config: ConfigOption = None,
        settings: SetOption = None,
        name: RunOption = "local",
        as_json: JsonOption = False,
        junit: JunitOption = None,
        verbose: VerboseOption = False,
    ) -> None:
        _be_verbose(verbose)
        pipeline = _pipeline(listed)
        with _told_of_bad_input(junit):
            run = _open(pipeline, preset, config, settings, name)
        try:
            _run_all(pipeline, run, as_json=as_json, junit=junit)
        finally:
            _trim_cache(run)

    app.command(listed.command, help=listed.summary)(command)


_ShardOption = Annotated[
    int | None,
    typer.Option(
        "--shard",
        min=0,
        help="Make only this part of it, counted from 0, of as many as evaluation.shards says, for the step to put "
        "together: on this or another machine with the same workspace.",
    ),
]


def _add_sharded_step(app: typer.Typer, listed: ListedPipeline, step: str, called: str, summary: str) -> None:
    def command(
        preset: PresetOption = None,
        config: ConfigOption = None,
        settings: SetOption = None,
        name: RunOption = "local",
        shard: _ShardOption = None,
        as_json: JsonOption = False,
        verbose: VerboseOption = False,
    ) -> None:
        _be_verbose(verbose)
        pipeline = _pipeline(listed)
        run = _open(pipeline, preset, config, settings, name)
        if shard is None:
            _run_step(pipeline, step, run, as_json=as_json)
        else:
            pipeline.by_name[step].make_shard(run, shard)

    app.command(called, help=summary, rich_help_panel="Steps")(command)


def _add_step(app: typer.Typer, listed: ListedPipeline, step: str, called: str, summary: str, panel: str) -> None:
    def command(
        preset: PresetOption = None,
        config: ConfigOption = None,
        settings: SetOption = None,
        name: RunOption = "local",
        as_json: JsonOption = False,
        verbose: VerboseOption = False,
    ) -> None:
        _be_verbose(verbose)
        pipeline = _pipeline(listed)
        _run_step(pipeline, step, _open(pipeline, preset, config, settings, name), as_json=as_json)

    app.command(called, help=summary, rich_help_panel=panel)(command)


def _pipeline(listed: ListedPipeline) -> Pipeline:
    from hpe_tasks.pipeline.pipelines import PIPELINES

    return next(pipeline for pipeline in PIPELINES if pipeline.name == listed.name)


def _open(pipeline: Pipeline, preset: str | None, file: Path | None, settings: list[str] | None, name: str) -> Run:
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.pipeline.runs import open_run
    from hpe_tasks.storage.s3 import make_client

    places = Settings.from_environment()
    return open_run(
        read_config(preset, file, settings),
        workspace=places.workspace,
        cache=places.cache,
        name=name,
        s3=make_client,
        signing_key=places.read_signing_key,
        pipeline=pipeline.name,
    )


@contextmanager
def _told_of_bad_input(junit: Path | None) -> Iterator[None]:
    """Begins a JUnit file, which says so where no run can be opened."""
    if junit is None:
        yield
        return
    from hpe_tasks.errors import HpeError
    from hpe_tasks.report.junit import junit_of_error, start_junit
    from hpe_tasks.storage.files import write_atomically

    start_junit(junit)
    try:
        yield
    except HpeError as error:
        write_atomically(junit, junit_of_error(error))
        raise


def _be_verbose(verbose: bool) -> None:
    if verbose:
        logging.getLogger("hpe_tasks").setLevel(logging.INFO)


def _run_all(pipeline: Pipeline, run: Run, *, as_json: bool, junit: Path | None) -> None:
    from hpe_tasks.errors import HpeError
    from hpe_tasks.pipeline.running import end_run, run_steps

    try:
        run_steps(pipeline, run, pipeline.ordered, None if as_json else StderrWatch())
    except BaseException as error:
        try:
            end_run(pipeline, run)
            print_summary(run, as_json=as_json, junit=junit)
        except HpeError as second:
            logging.getLogger(__name__).warning("There is no report: %s", second)
            raise error from None
        told = {failure.message for failure in pipeline.failures(run)}
        if as_json or not isinstance(error, HpeError) or error.message not in told:
            raise
        # The table has said it.
        raise typer.Exit(exit_code(error)) from error
    end_run(pipeline, run)
    if not print_summary(run, as_json=as_json, junit=junit):
        raise typer.Exit(EXIT_GATE_FAILED)


def _trim_cache(run: Run) -> None:
    from hpe_tasks.config.environment import Settings
    from hpe_tasks.upkeep.cache import trim_after_run

    trim_after_run(run.cache, Settings.from_environment().cache_max_gb)


def _run_step(pipeline: Pipeline, name: str, run: Run, *, as_json: bool) -> None:
    step = pipeline.by_name[name]
    record = step(run)
    if as_json:
        print_json(record)
    else:
        from rich.console import Console

        from hpe_tasks.report.summary import record_table

        Console().print(record_table(name, record))
    # A check that must stop the run has raised; a gate that refuses is a result.
    if step.refused(record):
        raise typer.Exit(EXIT_GATE_FAILED)
